"""Write docs/claims.md: every claim with its statement, source, derivation, experiment, result and figure.

python simulations/claim_pages.py [--results DIR] [--figures DIR]; it reads what is stored and computes nothing.
Of claims that are not stored it leaves what the page says.
"""

import sys
from pathlib import Path

from common import options

from moe_theory.errors import InputError
from moe_theory.study.comparing import compare
from moe_theory.study.page_renewal import renewed
from moe_theory.study.pages import claims_page
from moe_theory.study.report import report
from moe_theory.study.spec import ProblemSpec
from moe_theory.study.store import Store
from moe_theory.study.stored import holds
from moe_theory.study.sweep import rows_of, sweep_of
from moe_theory.study.witnesses import kept, witnesses
from moe_theory.theory.claims import CLAIMS as TABLE
from moe_theory.theory.comparisons import COMPARISONS

CLAIMS = tuple(TABLE)
SIZES = "1e3:1e12:10"
REPLICATIONS = 64
SEED = 0
PAGE = Path("docs/claims.md")


def main() -> None:
    """Judge everything that is stored at its default sweep and write the page."""
    given = options(__doc__)
    store = Store(given.results)
    reports, rows = {}, {}
    for claim in TABLE.values():
        sweep = sweep_of(claim, seed=SEED)
        if not holds(store, claim, sweep):
            continue
        found = rows_of(claim, sweep, store)
        if set(found["n"]) != set(sweep.sizes):
            continue
        try:
            reports[claim.id], rows[claim.id] = report(claim, sweep, found), found
        except InputError as error:
            print(f"left out: {claim.id}: {error}", file=sys.stderr)
    compared = [compare(each, rows) for each in COMPARISONS.values() if rows.keys() >= set(each.parts)]
    seen = {name: witnesses(made, store) for name, made in reports.items()}
    found = {}
    for claim in TABLE.values():
        problem = sweep_of(claim).problem
        answer = kept(store, problem) if type(problem) is ProblemSpec else None
        if answer is not None and claim.specification == "over":
            found[claim.id] = answer
    page = claims_page(list(TABLE.values()), reports, compared, given.figures, seen, found)
    if PAGE.is_file():
        page = renewed(page, PAGE.read_text(encoding="utf-8"), CLAIMS, COMPARISONS, reports)
    PAGE.write_text(page, encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
