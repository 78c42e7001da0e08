"""A page written anew loses nothing of what is not stored any more."""

import pytest

from moe_theory.study.page_renewal import renewed
from moe_theory.theory.claims import CLAIMS
from moe_theory.theory.comparisons import COMPARISONS

ORDER = ("one", "two", "three")


def page_of(results, comparison=""):
    """A page with these results: id -> word."""
    lines = "\n".join(f"| [{name}](#{name}) | {word} |" for name, word in results.items())
    table = f"## Verdicts\n\nTold.\n\n| claim | result |\n|---|---|\n{lines}\n\n"
    sections = "".join(f"## {name}\n\n{results.get(name, 'not stored')}\n\n" for name in ORDER)
    return f"# Every claim\n\nhead\n\n{table if results else ''}{sections}{comparison}"


def test_what_is_stored_is_new_and_the_rest_is_kept():
    earlier = page_of({"one": "old 1", "two": "old 2"}, "## one-vs-two\n\ncompared\n")
    page = renewed(page_of({"two": "new 2", "three": "new 3"}), earlier, ORDER, ["one-vs-two"], {"two", "three"})
    assert [line for line in page.splitlines() if "](#" in line] == [
        "| [one](#one)     | old 1  |",
        "| [two](#two)     | new 2  |",
        "| [three](#three) | new 3  |",
    ]
    assert "## one\n\nold 1\n\n## two\n\nnew 2\n\n## three\n\nnew 3\n\n## one-vs-two\n\ncompared\n" in page
    assert page.startswith("# Every claim\n\nhead\n\n## Verdicts\n\nTold.\n\n|")


def test_everything_stored_leaves_the_new_page_as_it_is():
    results = {"one": "1", "two": "2", "three": "3"}
    again = renewed(page_of(results), page_of({"one": "old"}), ORDER, [], set(ORDER))
    assert [line.replace(" ", "") for line in again.splitlines() if not set(line) <= set("|-")] == [
        line.replace(" ", "") for line in page_of(results).splitlines() if not set(line) <= set("|-")
    ]


def test_a_table_with_other_columns_is_not_mixed_in():
    other = page_of({"one": "old 1"}).replace("result |", "result | more |").replace("old 1 |", "old 1 | 7 |")
    page = renewed(page_of({"two": "new 2"}), other, ORDER, [], {"two"})
    assert [line for line in page.splitlines() if "](#" in line] == ["| [two](#two) | new 2 |"]


def test_nothing_is_stored():
    earlier = page_of({"one": "old 1"})
    page = renewed(page_of({}), earlier, ORDER, [], ())
    assert page.count("old 1") == 2
    assert [line for line in page.splitlines() if line.startswith("#")] == [
        "# Every claim", "## Verdicts", "## one", "## two", "## three",
    ]  # fmt: skip


def test_a_line_stays_where_the_new_table_has_none():
    """Margins are of claims that are certified, which may be others than those with rows."""
    earlier = page_of({"one": "1", "two": "2"}).replace("Verdicts", "Margins")
    page = renewed(page_of({"two": "new"}).replace("Verdicts", "Margins"), earlier, ORDER, [], {"one", "two"})
    assert [line for line in page.splitlines() if "](#" in line] == [
        "| [one](#one) | 1      |",
        "| [two](#two) | new    |",
    ]


def test_what_is_neither_claim_nor_comparison_any_more_goes():
    earlier = page_of({"one": "1"}, "## gone\n\nold words\n")
    assert "old words" not in renewed(page_of({"one": "1"}), earlier, ORDER, [], {"one"})


@pytest.mark.parametrize("stored", [(), tuple(CLAIMS)])
def test_the_page_of_today_renews_itself(request, stored):
    page = (request.config.rootpath / "docs" / "claims.md").read_text()
    assert renewed(page, page, tuple(CLAIMS), tuple(COMPARISONS), stored) == page
