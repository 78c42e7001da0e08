"""The trap that certificates avoid: slopes of over-fitted RepLoRA when the optimiser stops early, near its start.

The same data fitted four ways: not at all (the starts, n^-1/4 from the truth), by Adam with few and with many steps, by
L-BFGS, and by the certified minimiser of least squares.

python simulations/early_stopping.py [--smoke] [--results DIR] [--figures DIR]
"""

from common import options

import moe_theory
from moe_theory.estimation.first_order import adam, lbfgs
from moe_theory.study.descents import Descents, descent_table
from moe_theory.study.drawing import lasting
from moe_theory.study.figures import rate_figure
from moe_theory.study.panels import IDENTIFIED_SET, claim_panel
from moe_theory.study.provenance import provenance
from moe_theory.study.store import Store
from moe_theory.study.sweep import SMOKE, run_claims, sweep_of
from moe_theory.theory.claims import OVER_FROM, claim_named

CLAIMS = ("replora-linear-over",)
SIZES = "1e3:1e12:10"
REPLICATIONS = 16
SEED = 0
FEW, MANY, QUASI_NEWTON = 1000, 10_000, 300
COLUMNS = {"D_12": "Voronoi loss D_12", "overfitted_error": "over-fitted atoms", "function_error": "function error"}
PREDICTED = {"D_12": -0.5, "overfitted_error": -0.25, "function_error": -0.5}


def main() -> None:
    """Fit, print the slopes, draw all but L-BFGS."""
    given = options(__doc__)
    moe_theory.enable_x64()
    settings = SMOKE if given.smoke else {"sizes": SIZES, "replications": REPLICATIONS}
    few, many, quasi_newton = (10, 20, 5) if given.smoke else (FEW, MANY, QUASI_NEWTON)
    claim = claim_named(CLAIMS[0])
    sweep = sweep_of(claim, seed=SEED, **settings)
    (certified,) = run_claims([(claim, sweep)], Store(given.results), given.workers)
    descents = Descents(sweep)
    fits = {
        "Certified minimiser": certified.drop(columns=list(IDENTIFIED_SET), errors="ignore"),
        "The starts themselves": descents.rows(adam(few), 0),
        f"Adam, {few:,} steps": descents.rows(adam(few), few),
        f"Adam, {many:,} steps": descents.rows(adam(many), many),
        f"L-BFGS, {quasi_newton:,} steps": descents.rows(lbfgs(), quasi_newton),
    }
    fit_from = float(sweep.sizes[0]) if given.smoke else OVER_FROM
    panels = [claim_panel(title, rows, None, fit_from, list(COLUMNS), PREDICTED) for title, rows in fits.items()]
    print(descent_table(list(zip(panels, fits.values(), strict=True)), COLUMNS))
    for path in rate_figure(panels[:4], given.figures / "early-stopping", lasting(provenance())):
        print(path)


if __name__ == "__main__":
    main()
