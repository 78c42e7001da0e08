"""A page of claims written anew keeps what an earlier one says of claims whose rows are not at hand."""

import re
from collections.abc import Collection, Sequence

from moe_theory.study.tables import aligned

NAMED = re.compile(r"[\[`]([\w.-]+)[\]`]")
"""A claim's id in the first cell of a table: a link, or code."""

TABLES = ("Verdicts", "Margins")
"""Sections with a line for every claim."""


def renewed(
    page: str, earlier: str, claims: Sequence[str], comparisons: Collection[str], stored: Collection[str]
) -> str:
    """The new page, with the earlier one's sections and lines of tables where it has none itself.

    Args:
        page, earlier: Markdown, as ``pages.claims_page`` writes it.
        claims: all ids, in the order of the page; a section of one that is not stored is the earlier one's.
        comparisons: all ids; an earlier section is kept where the new page has none.
        stored: ids of the claims that the new page has results of.
    """
    new, old = _sections(page), _sections(earlier)
    for title, text in old.items():
        if title in claims:
            new[title] = new[title] if title in stored else text
        elif title in comparisons:
            new.setdefault(title, text)
        elif title in TABLES:
            new[title] = _with_lines(new[title], text, claims) if title in new else text
    titles = sorted(new, key=lambda title: (title != "", title not in TABLES, title not in claims))
    apart = [text if text.endswith("\n\n") else f"{text.rstrip()}\n\n" for text in map(new.__getitem__, titles)]
    return "".join(apart).rstrip() + "\n"


def _sections(page: str) -> dict[str, str]:
    """Title -> text with its heading; what stands before the first one has an empty title."""
    parts = re.split(r"(?m)^(?=## )", page)
    return {part.partition("\n")[0].removeprefix("## ") if part.startswith("## ") else "": part for part in parts}


def _with_lines(section: str, earlier: str, claims: Sequence[str]) -> str:
    """The section with the earlier one's lines of claims that it has none of; as it is where columns differ."""
    lines, others = _table(section), _table(earlier)
    if {len(cells) for cells in [*lines, *others]} != {len(lines[0])}:
        return section
    by_id = {_name(cells): cells for cells in [*others[1:], *lines[1:]]}
    table = aligned([lines[0], *(by_id[name] for name in claims if name in by_id)])
    before, _, rest = section.partition("\n|")
    return f"{before}\n{table}\n{rest[rest.rindex('|') + 1 :].lstrip()}"


def _table(section: str) -> list[list[str]]:
    """Cells of the section's table, its rule left out."""
    lines = [line for line in section.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row, line in zip(rows, lines, strict=True) if not set(line) <= set("|-")]


def _name(cells: list[str]) -> str:
    found = NAMED.search(cells[0])
    return found.group(1) if found else cells[0]
