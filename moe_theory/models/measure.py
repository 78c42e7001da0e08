"""The mixing measure G = sum_i exp(c_i) delta_{theta_i}."""

from typing import Any

import equinox as eqx
from jaxtyping import Array, Float


class MixingMeasure(eqx.Module):
    """A finite mixing measure G = sum_{i=1}^k exp(c_i) delta_{theta_i}.

    Attributes:
        log_weights: c, shape (k,). With a frozen atom c is relative to it; without one only differences matter.
        atoms: the thetas, a pytree whose leaves have a leading axis k.
        common: parameters that all atoms share, a pytree without the axis k; most adapters have none, ``()``.
    """

    log_weights: Float[Array, "*batch k"]
    atoms: Any
    common: Any = ()

    @property
    def k(self) -> int:
        """Number of atoms."""
        return self.log_weights.shape[-1]
