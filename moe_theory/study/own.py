"""A user's model F(x, atom) -> (score, output) from prediction to verdict: certified, simulated, judged and drawn.

    study = study_model("mine", F, atoms, frozen=[zero], inputs=3)
    print(study.as_text())
    study.draw("figures")

The claim that is judged is what `certify` predicts for one atom more than the truth has (or for the exact number), so
the verdict says whether prediction and simulation agree.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Float

from moe_theory.errors import InputError
from moe_theory.estimation.objective import design_of
from moe_theory.estimation.space import Chart, ParameterSpace
from moe_theory.models.function import Function, function_model
from moe_theory.models.measure import MixingMeasure
from moe_theory.precision import require_x64
from moe_theory.sampling.inputs import finite_support
from moe_theory.study.drawing import draw_claims
from moe_theory.study.identification import Certified
from moe_theory.study.problem import NO_FLOOR, Setup, check_inside
from moe_theory.study.replicate import Replicator
from moe_theory.study.report import Report, report
from moe_theory.study.spec import SweepSpec, specify
from moe_theory.study.tables import verdict_table
from moe_theory.theory.claim import Claim, Measure
from moe_theory.theory.claims import AS_GOOD, HALF, NO_POWER, OVER_FROM
from moe_theory.theory.identifiability import Identifiability, identify
from moe_theory.theory.laws import Prediction
from moe_theory.theory.user_families import user_mixture

POINTS = 128
"""Support points where only their dimension is given."""
SEED = 1
"""Of those points."""


@dataclass(frozen=True)
class Study:
    """What is known of a user's model.

    Attributes:
        certified: margins, gauge, predicted laws, blame.
        report: curves and verdicts of the simulation.
        rows: one row per replication, with its certificate.
    """

    certified: Certified
    report: Report
    rows: pd.DataFrame

    def as_text(self) -> str:
        """Prediction and verdicts."""
        return f"{self.certified.as_text()}\n\n{verdict_table([self.report])}"

    def draw(self, folder: str | Path) -> list[Path]:
        """Write the figure, its numbers and its provenance, named after the model.

        Raises:
            InputError, StoreError: as `draw_claims`.
        """
        return draw_claims([(self.report, self.rows)], Path(folder))


def study_model(
    name: str,
    function: Function,
    atoms: Sequence[Any],
    inputs: int | Float[np.ndarray, "M d"],
    *,
    frozen: Sequence[Any] = (),
    weights: Sequence[float] | None = None,
    k_fit: int | None = None,
    sigma: float = 1.0,
    sizes: str = "1e5:1e11:4",
    replications: int = 8,
    seed: int = 0,
    starts: str = "standard",
    radius: float = 3.0,
    weight_floor: float = 0.05,
) -> Study:
    """Certify a model f_G(x) = sum_i softmax_i(c_i + s(x; theta_i)) h(x; theta_i), simulate it, and judge.

    Args:
        name: of the model, and of its figure.
        function: F(x, atom) -> (s, h) for one input and one atom, any pytree of arrays.
        atoms: the true ones.
        inputs: points that x is uniform on, or how many inputs there are (then 128 Sobol points).
        frozen: known atoms of weight 1 that anchor the softmax.
        weights: exp(c_i) of the true atoms; all 1 where not given.
        k_fit: atoms of the fit; one more than the truth has where not given.
        sigma: noise standard deviation.
        sizes: grid of sample sizes, 'first:last:count'.
        replications: per size.
        seed: root of the random streams of data and starts.
        starts: name of the preset of starting points.
        radius: largest root mean square of an atom's block, in units of the truth's.
        weight_floor: least share of an atom's weight.

    Raises:
        InputError: float64 is off; F, the atoms or the settings do not fit; the softmax leaves something open that a
            frozen atom would anchor; or no law is predicted. The message says what to do.
    """
    require_x64()
    support = finite_support("uniform", POINTS, inputs, SEED) if isinstance(inputs, int) else np.asarray(inputs)
    atoms, frozen = ([_float64(atom) for atom in given] for given in (atoms, frozen))
    model = function_model(function, atoms, support, frozen)
    found = identify(user_mixture(function, atoms, support, weights, frozen))
    _check_anchor(found, bool(frozen))
    k_true = len(atoms)
    k_fit = k_true + 1 if k_fit is None else k_fit
    claim = predicted_claim(name, found, k_true, k_fit)
    sweep = specify(
        SweepSpec, {"sizes": sizes, "replications": replications, "seed": seed, "starts": starts}
    )  # fmt: skip
    space = ParameterSpace(radius, max(weight_floor, NO_FLOOR))
    shares = jnp.zeros(k_true, jnp.float64) if weights is None else jnp.log(jnp.asarray(weights, jnp.float64))
    truth = MixingMeasure(shares, jax.tree.map(lambda *leaves: jnp.stack(leaves), *atoms))
    check_inside(Chart(model, space, k_true), truth)
    points = jnp.asarray(support)
    values = np.asarray(jax.vmap(model.predict, (None, 0))(truth, points).T)
    setup = Setup(model, truth, design_of(model, points), values, space, k_fit, sigma)
    replicator = Replicator(sweep, claim.identified_set, setup)
    rows = pd.concat(
        [rows for _, rows in replicator.cells([(n, 0, replications) for n in sweep.sizes])], ignore_index=True
    )
    settings = {"inputs": support.shape[1], "support": len(support), "k_true": k_true, "k_fit": k_fit}
    return Study(Certified(name, settings, found), report(claim, sweep, rows), rows)


def _float64(atom: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), atom)


def _check_anchor(found: Identifiability, anchored: bool) -> None:
    """The simulation divides out the weights' common shift alone, and a constant of the score is a second weight."""
    allowed = 0 if anchored else 1
    if found.first.generic_nullity > allowed:
        open_ones = "; ".join(part.words for part in found.common_gauge)
        raise InputError(
            f"the softmax leaves {found.first.generic_nullity} motions open ({open_ones}): give a frozen atom, "
            "frozen=[...], which anchors them"
        )


def predicted_claim(name: str, found: Identifiability, k_true: int, k_fit: int) -> Claim:
    """What `certify` predicts of the fit, as a claim that can be judged.

    Args:
        name: of the model.
        found: its margins and laws.
        k_true, k_fit: atoms.

    Raises:
        InputError: fewer fitted than true atoms, or a law that is undecided.
    """
    if k_fit < k_true:
        raise InputError(f"k_fit must be at least {k_true}, the number of true atoms, got {k_fit}")
    exact = k_fit == k_true
    law = found.exact if exact else found.law(k_fit - k_true + 1)
    if law is None:
        raise InputError("no law is predicted for this model (see `certify`), so there is nothing to judge")
    main, others = _measures(law, exact)
    statement = "the simulation has the law that the margins predict"
    kind = "exact" if exact else "over"
    return Claim(name, name, kind, statement, "the user's model", main, others, identified_set=not exact)


def _measures(law: Prediction, exact: bool) -> tuple[Measure, tuple[Measure, ...]]:
    """D_12 measures over-fitted atoms at power two, single ones and weights at power one."""
    function = Measure("function_error", "function error", HALF, OVER_FROM)
    if exact:
        return Measure("D_1", "Voronoi loss D_1", law, OVER_FROM), (function,)
    if law.exponent is None:
        return Measure("D_12_truth_highest", AS_GOOD, NO_POWER, OVER_FROM), (function,)
    loss = Prediction("power", 2.0 * law.exponent)
    return Measure("D_12", "Voronoi loss D_12", loss, OVER_FROM), (
        Measure("overfitted_error", "over-fitted atoms", law, OVER_FROM, conditional=True),
        Measure("singleton_error", "singleton atoms", HALF, OVER_FROM, conditional=True),
        function,
        Measure("D_12_truth_highest", AS_GOOD, loss, OVER_FROM),
    )
