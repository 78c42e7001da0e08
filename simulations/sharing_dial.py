"""The sharing dial: value update = eta * query's + (1 - eta) * own. Where does the slow law turn into a power of n?

python simulations/sharing_dial.py [--smoke] [--results DIR] [--figures DIR]
"""

from common import options, run

from moe_theory.study.drawing import lasting
from moe_theory.study.phases import dial_figure, dialled
from moe_theory.study.provenance import provenance
from moe_theory.theory.claims import DIAL

ETAS = (0.0, *DIAL, 1.0)
CLAIMS = ("lora-over", *(f"dial-eta-{eta}" for eta in DIAL), "replora-linear-over")
SIZES = "1e5:1e11:4"
REPLICATIONS = 16
SEED = 0


def main() -> None:
    """Run every setting, print the verdicts, draw the phase diagram."""
    given = options(__doc__)
    drawn = run(CLAIMS, SIZES, REPLICATIONS, SEED, given)
    dial = dialled({eta: rows for eta, (_, rows) in zip(ETAS, drawn, strict=True)})
    for path in dial_figure(dial, given.figures / "sharing-dial", lasting(provenance())):
        print(path)


if __name__ == "__main__":
    main()
