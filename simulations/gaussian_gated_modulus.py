"""Cells of three atoms: rates of replications beside those of the modulus of continuity, in Type I and in Type II.

A translation of x makes one center zero and leaves A as it is, so the rate of A cannot depend on the type.

python simulations/gaussian_gated_modulus.py [--claims ID ...] [--smoke] [--results DIR] [--figures DIR]
"""

from common import options_parser, run

import moe_theory
from moe_theory.study.block_moduli import AMPLITUDES, DIRECTIONS, BlockModuli, block_moduli
from moe_theory.study.density_problem import build_density
from moe_theory.study.density_spec import DensitySweepSpec
from moe_theory.study.drawing import Drawn, lasting
from moe_theory.study.modulus_figures import moduli_figure
from moe_theory.study.panels import curve_of
from moe_theory.study.provenance import provenance
from moe_theory.study.tables import aligned, exponent_words
from moe_theory.theory.density_claims import WORDS
from moe_theory.theory.laws import compare_laws
from moe_theory.theory.summaries import ErrorCurve

CLAIMS = ("gaussian-gated-type1-k5", "gaussian-gated-type2-k5")
SIZES = "1e9:1e15:4"
REPLICATIONS = 16
SEED = 0
BLOCKS = ("center", "intercept", "spread", "noise", "slope")


def curves_of(drawn: Drawn) -> dict[str, ErrorCurve]:
    """Means over the replications whose fit has a cell of three."""
    found = {f"triple_{block}": curve_of(drawn[1], f"triple_{block}_error", "mean")[0] for block in BLOCKS}
    return {block: curve for block, curve in found.items() if curve is not None}


def main() -> None:
    """Run, compute the moduli, print exponents side by side, draw."""
    parser = options_parser(__doc__)
    parser.add_argument("--claims", nargs="+", choices=CLAIMS, default=CLAIMS, help="these alone; both by default")
    given = parser.parse_args()
    moe_theory.enable_x64()
    panels: dict[str, tuple[dict[str, ErrorCurve], BlockModuli]] = {}
    table = [["claim", "block", "replications, mean", "modulus, same range", "modulus, last two decades"]]
    for made, rows in run(given.claims, SIZES, REPLICATIONS, SEED, given):
        assert isinstance(made.sweep, DensitySweepSpec)
        amplitudes = AMPLITUDES[::4] if given.smoke else AMPLITUDES
        moduli = block_moduli(build_density(made.sweep.problem), 3, DIRECTIONS, amplitudes)
        curves = curves_of((made, rows))
        panels[made.claim.model] = curves, moduli
        for block, curve in curves.items():
            fit = compare_laws(curve).fits["power"]
            first, last = float(curve.n[0]), float(curve.n[-1])
            measured = exponent_words(fit.parameters["exponent"], fit.intervals["exponent"])
            local = [f"{moduli.exponent(block, start, last):+.4f}" for start in (first, last / 100)]
            table.append([made.claim.id, WORDS[block.split("_")[1]], measured, *local])
    print(aligned(table))
    words = {f"triple_{block}": WORDS[block] for block in BLOCKS}
    for path in moduli_figure(panels, words, given.figures / "gaussian-gated-k5-modulus", lasting(provenance())):
        print(path)


if __name__ == "__main__":
    main()
