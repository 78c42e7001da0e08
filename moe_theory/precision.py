"""Double precision, asked for by entry points and required by everything that measures a rate."""

from typing import Any

import numpy as np

from moe_theory.errors import InputError
from moe_theory.threads import keep_one_thread


def enable_x64() -> None:
    """Switch JAX to float64 for the whole process; call it first in scripts, notebooks and test sessions.

    It also keeps BLAS, and JAX on CPU, to one thread, without which jaxlib can wait for ever (``threads``). The
    library never flips these global switches on import, because the program that imports it owns them.
    """
    import jax

    keep_one_thread()
    jax.config.update("jax_enable_x64", True)


def require_x64(*arrays: Any) -> None:
    """Refuse to measure a rate in single precision.

    At n = 10^12 objective differences of relative size 10^-12 decide a fit; float32 resolves 10^-7.

    Args:
        arrays: arrays that enter a measurement; each must be float64.

    Raises:
        InputError: if JAX's x64 mode is off, or an array is of a lower precision.
    """
    import jax

    if not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        raise InputError("rates are measured in float64: call moe_theory.enable_x64() before any JAX computation")
    for array in arrays:
        if np.issubdtype(array.dtype, np.floating) and array.dtype != np.float64:
            raise InputError(f"rates are measured in float64, got {array.dtype}: convert the input with numpy.float64")
