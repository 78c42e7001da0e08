"""A page of claims written anew keeps what an earlier one says of claims whose rows are not at hand."""

import re
from collections.abc import Collection, Sequence

from moe_theory.study.tables import aligned

NAMED = re.compile(r"[\[`]([\w.-]+)[\]`]")
"""A claim's id in the first cell of a table: a link, or code."""


def renewed(page: str, earlier: str, order: Sequence[str], stored: Collection[str]) -> str:
    """The new page, with sections and lines of tables of the earlier one for all that is not stored.

    A comparison that is not on the new page keeps its section too, at the end.

    Args:
        page, earlier: Markdown, as ``pages.claims_page`` writes it.
        order: ids of the claims, in the order of the page's tables.
        stored: ids of those that the new page shows.
    """
    new, old = _sections(page), _sections(earlier)
    for title, text in old.items():
        if title in order:
            new[title] = new[title] if title in stored else text
        elif title not in new:
            new[title] = text
        elif "\n|" in text:
            new[title] = _with_lines(new[title], text, order, stored)
    first = next((place for place, title in enumerate(old) if title in order), len(old))
    leading = list(old)[:first]
    titles = sorted(new, key=lambda title: (title != "", title not in leading, title not in order))
    return "".join(new[title] for title in titles)


def _sections(page: str) -> dict[str, str]:
    """Title -> text with its heading; what stands before the first one has an empty title."""
    parts = re.split(r"(?m)^(?=## )", page)
    return {part.partition("\n")[0].removeprefix("## ") if part.startswith("## ") else "": part for part in parts}


def _with_lines(section: str, earlier: str, order: Sequence[str], stored: Collection[str]) -> str:
    """The section with the earlier one's lines for what is not stored; the section as it is where columns differ."""
    lines, others = _table(section), _table(earlier)
    if not lines or not others or len(lines[0]) != len(others[0]):
        return section
    by_id = {_name(cells): cells for cells in others[1:] if _name(cells) not in stored}
    by_id |= {_name(cells): cells for cells in lines[1:]}
    table = aligned([lines[0], *(by_id[name] for name in order if name in by_id)])
    before, rest = section.split("\n|", 1)
    after = rest[rest.rindex("|\n") + 2 :] if "|\n" in rest else ""
    return f"{before}\n{table}\n{after}"


def _table(section: str) -> list[list[str]]:
    """Cells of the section's table, its rule left out."""
    lines = [line for line in section.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row, line in zip(rows, lines, strict=True) if not set(line) <= set("|-")]


def _name(cells: list[str]) -> str:
    found = NAMED.search(cells[0])
    return found.group(1) if found else cells[0]
