"""DoRA and DoRAN: adapted matrices as magnitude times direction, column by column.

    W = m o N / ( ||N||_col + tau ),   N = M + Delta_0,   m = ||M||_col o (1 + gain),

where Delta_0 is the low-rank update of an inner adapter: LoRA's for DoRA (2402.09353), RepLoRA's shared and generated
one for DoRAN (2510.04331). A gain of 0 is the pre-trained norm. Delta = W - M.

Gauge (our derivation; q x d matrices, rank r, one projection):

- GL(r) of the low-rank product, always.
- tau = 0 forgets the length of every column of N. The d motions N diag(s) stay in { M + rank r } to first order where
  P N diag(s) P' = 0 with P, P' the projections off the columns of B and the rows of A: (q - r)(d - r) equations in d
  unknowns. For generic M there are max(0, d - (q - r)(d - r)) solutions, so none at low rank: tau is not needed there
  to break a scale invariance. With tau > 0 the length of a column counts and there are none at all.
- ``free`` magnitudes make W = N diag(s) with any s > 0. That absorbs every tau exactly, so a free tau would be a
  gauge direction of its own: it is held at ``HELD_TAU``. The radial motions above are then invisible for every tau,
  and the query's product has the gate's symmetries with the key diag(s) M_K (attention: O(r, r)).
- A gate sees few numbers of W_Q (attention d (d + 1) / 2). Where W_Q has more free ones, what is left over is hidden:
  free magnitudes, attention, r = 1, d = 4: 7 + 4 parameters against 10 numbers. Such motions have no closed form;
  ``models.gauge`` counts and finds them.
- ``global`` magnitudes and a free tau are common to all atoms, and the gauge is that of one atom with them held. (With
  one atom and no other, they have a gauge of their own; two different atoms fix them.)

What splits of an atom f_G can see (our derivation). f_G is linear in W_V, so two halves W_V + H and W_V - H with equal
query part are invisible whenever both are allowed. ``free``: W_V = N diag(s) is linear in s and, s held, in A and in B,
so there are such segments of any length, in the low-rank part (not when it is shared with the query) and in s itself,
for DoRAN too.
``fixed`` or ``global`` with tau = 0: columns lie on spheres of radius m_j, which hold no segments, and the mean of two
halves misses the sphere along its normal, which no first-order motion makes up for: the distance of <S, D^2 W_V> from
the first-order motions of W_V (S >= 0 in units of these, trace 1: twice the margin of theory section 8) is
(sum_j m_j^2)^-1/2 or more, at every rank and truth. With tau > 0 the length of a column moves W too and makes up for
part of it, and the distance falls fast: for d = 4, r = 1, m = 1 and halves it is 0.5 at tau = 0, 0.06 to 0.3 at 0.1,
10^-3 to 10^-2 at 0.5 and 10^-6 to 10^-5 at 5 (cells of several atoms: 0 from about 0.5 on), on the way to the plain
update (m / tau) N with its invisible split.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from moe_theory.errors import InputError
from moe_theory.models.adapters import AbstractAdapter, Lora, Projections, RepLora
from moe_theory.models.factors import ball
from moe_theory.models.gates import AbstractGate

HELD_TAU = 0.5
"""The value of a free tau where free magnitudes absorb it."""

LARGEST_TAU = 5.0
LEAST_MAGNITUDE = 0.05
LEAST_NORM = 0.1
"""Bounds of Theta: magnitudes and column norms of N relative to the pre-trained norms."""

DRAWN_GAIN = 0.3
DRAWN_TAU = (0.3, 0.7)
RELATIVE_ZERO = 1e-12
"""A column of N below this part of the pre-trained norm is rounding: its direction means nothing."""

MAGNITUDES = ("fixed", "global", "free")


class Gains(NamedTuple):
    """Relative deviations of the magnitudes from the pre-trained norms; 0 is the pre-trained norm."""

    query: Float[Array, "*batch d"]
    value: Float[Array, "*batch d"]


class Taus(NamedTuple):
    """tau of each projection."""

    query: Float[Array, "*batch"]
    value: Float[Array, "*batch"]


class DecomposedAtom(NamedTuple):
    """The inner adapter's atom, and the atom's own gains: ``Gains``, or ``()`` unless magnitudes are free."""

    low_rank: Any
    gains: Any


class DecomposedCommon(NamedTuple):
    """What all atoms share: ``Gains`` where magnitudes are global, ``Taus`` where tau is free, otherwise ``()``."""

    gains: Any
    tau: Any


def column_norms(matrix: Float[Array, "rows columns"]) -> Float[Array, " columns"]:
    """||.||_col, with derivative 0 at a column of zeros."""
    squared = jnp.sum(matrix**2, axis=0)
    positive = squared > 0.0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)


def _decomposed(
    pretrained: Float[Array, "rows columns"],
    low_rank: Float[Array, "rows columns"],
    gain: float | Float[Array, " columns"],
    tau: float | Float[Array, ""],
) -> Float[Array, "rows columns"]:
    """W - M of one projection; a column of N that vanishes is 0 in W, never a NaN."""
    moved = pretrained + low_rank
    size = column_norms(moved) + tau
    scale = column_norms(pretrained) * (1.0 + gain) / jnp.where(size > 0.0, size, 1.0)
    return moved * scale[None, :] - pretrained


class WeightDecomposed(AbstractAdapter):
    """Column-normalised adaptation of another adapter's update, see the module.

    Attributes:
        inner: makes Delta_0: ``Lora`` or ``RepLora``.
        magnitudes: ``fixed`` (the pre-trained norms), ``global`` (one vector per projection) or ``free`` (per atom).
        tau: 0, a positive number, or ``free`` (positive, one per projection for all atoms; with free magnitudes it is
            held at ``HELD_TAU``, because they absorb it).

    Raises:
        InputError: for an unknown variant or a negative tau.
    """

    inner: Lora | RepLora
    magnitudes: str = eqx.field(static=True)
    tau: float | str = eqx.field(static=True)

    def __check_init__(self):
        if self.magnitudes not in MAGNITUDES:
            raise InputError(f"unknown magnitudes {self.magnitudes!r}: choose one of {', '.join(MAGNITUDES)}")
        if self.tau != "free" and (isinstance(self.tau, str) or not 0.0 <= self.tau < float("inf")):
            raise InputError(f"tau must be 0, a positive number or 'free', got {self.tau!r}")

    @property
    def value_tells_query(self) -> bool:
        """Magnitudes or normalisation differ, even where the low-rank product is shared."""
        return False

    @property
    def rank(self) -> int:
        """r of the inner adapter."""
        return self.inner.rank

    @property
    def tau_is_common(self) -> bool:
        """Whether tau is a parameter."""
        return self.tau == "free" and self.magnitudes != "free"

    def _gains_and_taus(self, atom: DecomposedAtom, common: Any) -> tuple[Any, Any]:
        """Both per projection, query first."""
        held = HELD_TAU if self.tau == "free" else self.tau
        gains = {"fixed": lambda: (0.0, 0.0), "global": lambda: common.gains, "free": lambda: atom.gains}
        return gains[self.magnitudes](), common.tau if self.tau_is_common else (held, held)

    def update(self, atom: DecomposedAtom, common: Any, pretrained: Projections) -> Projections:
        """m o (M + Delta_0) / (||M + Delta_0||_col + tau) - M for query and value."""
        low_rank = self.inner.update(atom.low_rank, (), pretrained)
        gains, taus = self._gains_and_taus(atom, common)
        return Projections(*map(_decomposed, pretrained, low_rank, gains, taus))

    def orbit(self, atom: DecomposedAtom) -> DecomposedAtom:
        """The inner adapter's; magnitudes stand still."""
        tangents = self.inner.orbit(atom.low_rank)
        count = jax.tree.leaves(tangents)[0].shape[0]
        still = jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), atom.gains)
        return DecomposedAtom(tangents, still)

    def gauge(self, atom: DecomposedAtom, gate: AbstractGate) -> DecomposedAtom:
        """``orbit``: normalisation breaks the gate's symmetries of a plain product."""
        return self.orbit(atom)

    def gauge_is_known(self, pretrained: Projections) -> bool:
        """Never: in few dimensions a gate leaves more hidden."""
        return False

    def balance(self, atom: DecomposedAtom) -> DecomposedAtom:
        """The inner factors balanced."""
        return atom._replace(low_rank=self.inner.balance(atom.low_rank))

    def aligned(self, atom: DecomposedAtom, reference: DecomposedAtom) -> DecomposedAtom:
        """The inner factors aligned."""
        return atom._replace(low_rank=self.inner.aligned(atom.low_rank, reference.low_rank))

    def interior(
        self, atom: DecomposedAtom, common: Any, pretrained: Projections, radius: float | Float[Array, ""]
    ) -> Float[Array, " constraints"]:
        """Balls for Delta_Q and Delta_V; the inner adapter's slacks, which bound Delta_0; columns of N not below a
        tenth of the pre-trained norm; free magnitudes not below a twentieth of it."""
        delta = self.update(atom, common, pretrained)
        low_rank = self.inner.update(atom.low_rank, (), pretrained)
        columns = [
            1.0 - (LEAST_NORM * column_norms(matrix)) ** 2 / jnp.sum((matrix + moved) ** 2, axis=0)
            for matrix, moved in zip(pretrained, low_rank, strict=True)
        ]
        inner = self.inner.interior(atom.low_rank, (), pretrained, radius)
        balls = [ball(matrix, radius) for matrix in delta]
        return jnp.concatenate([*balls, inner, *columns, *(1.0 - LEAST_MAGNITUDE + gain for gain in atom.gains)])

    def common_interior(self, common: Any, radius: float | Float[Array, ""]) -> Float[Array, " constraints"]:
        """Global magnitudes not below a twentieth of the pre-trained norms; 0 < tau < ``LARGEST_TAU``."""
        slacks = [1.0 - LEAST_MAGNITUDE + gain for gain in common.gains]
        for tau in common.tau:
            slacks.append(jnp.stack([tau, 1.0 - tau / LARGEST_TAU]))
        return jnp.concatenate([jnp.zeros(0, jnp.float64), *slacks])

    def draw(self, key: Array, pretrained: Projections, scale: float) -> DecomposedAtom:
        """Delta_0 of the order of ``scale``; free gains uniform in +-0.3."""
        key_low_rank, key_gains = jax.random.split(key)
        gains = _drawn_gains(key_gains, pretrained) if self.magnitudes == "free" else ()
        return DecomposedAtom(self.inner.draw(key_low_rank, pretrained, scale), gains)

    def draw_common(self, key: Array, pretrained: Projections) -> DecomposedCommon:
        """Global gains uniform in +-0.3, free tau uniform in 0.3 to 0.7."""
        key_gains, key_tau = jax.random.split(key)
        gains = _drawn_gains(key_gains, pretrained) if self.magnitudes == "global" else ()
        taus = jax.random.uniform(key_tau, (2,), jnp.float64, *DRAWN_TAU)
        return DecomposedCommon(gains, Taus(taus[0], taus[1]) if self.tau_is_common else ())

    def check(self, pretrained: Projections) -> None:
        """As the inner adapter; every pre-trained column needs a norm."""
        self.inner.check(pretrained)
        self._check_columns(pretrained, pretrained, "M_{}")

    def check_atoms(self, atoms: DecomposedAtom, common: Any, pretrained: Projections) -> None:
        """tau > 0, or else no column of M + Delta_0 may vanish."""
        if _traced((atoms, common, pretrained)):
            return
        if self.tau_is_common and any(float(jnp.min(tau)) <= 0.0 for tau in common.tau):
            raise InputError("a free tau must be positive: raise it, or use the adapter with tau = 0")
        if self.tau != 0.0:
            return
        low_rank = jax.vmap(self.inner.update, (0, None, None))(atoms.low_rank, (), pretrained)
        moved = jax.tree.map(lambda matrix, update: matrix[None] + update, pretrained, low_rank)
        self._check_columns(moved, pretrained, "M_{0} + Delta_0,{0}")

    def _check_columns(self, matrices: Projections, pretrained: Projections, name: str) -> None:
        if _traced((matrices, pretrained)):
            return
        for letter, matrix, reference in zip("QV", matrices, pretrained, strict=True):
            norms = jnp.linalg.norm(matrix, axis=-2)
            least = RELATIVE_ZERO * jnp.broadcast_to(jnp.linalg.norm(reference, axis=-2), norms.shape)
            if bool(jnp.any(norms <= least)):
                raise InputError(
                    f"column {int(jnp.argmin(norms) % norms.shape[-1])} of {name.format(letter)} has norm 0 and no "
                    "direction: change it, or add its contribution with another adapter (tau > 0 for updates)"
                )


def _drawn_gains(key: Array, pretrained: Projections) -> Gains:
    keys = jax.random.split(key)
    return Gains(
        *(
            jax.random.uniform(own, matrix.shape[-1:], jnp.float64, -DRAWN_GAIN, DRAWN_GAIN)
            for own, matrix in zip(keys, pretrained, strict=True)
        )
    )


def _traced(tree: Any) -> bool:
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def dora(rank: int, magnitudes: str = "free", tau: float | str = 0.0) -> WeightDecomposed:
    """DoRA: query and value have low-rank products of their own (2402.09353)."""
    return WeightDecomposed(Lora(rank), magnitudes, tau)


def doran(
    rank: int,
    activation: str = "tanh",
    magnitudes: str = "global",
    tau: float | str = "free",
) -> WeightDecomposed:
    """DoRAN: one generated product act(B) act(A) for query and value (2510.04331)."""
    return WeightDecomposed(RepLora(rank, activation), magnitudes, tau)
