"""The report as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from bipft_compress.reporting.layout import Section, Table
from bipft_compress.reporting.schema import Report
from bipft_compress.reporting.sections import sections, title

_SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\`*_{}[]<>#|~&"})


def render_markdown(report: Report) -> str:
    """The whole report, with tables in GitHub's flavour; names and notes are escaped."""
    return render_sections(title(report), sections(report))


def render_sections(heading: str, parts: Sequence[Section]) -> str:
    """A title and sections, without their figures."""
    blocks = [f"# {_escape(heading)}"]
    for section in parts:
        blocks += _section(section)
    return "\n\n".join(blocks) + "\n"


def _section(section: Section) -> list[str]:
    blocks = [f"## {_escape(section.title)}"]
    blocks += [_escape(paragraph) for paragraph in section.text]
    if section.table is not None:
        blocks.append(markdown_table(section.table))
    if section.items:
        blocks.append("\n".join(f"- {_escape(item)}" for item in section.items))
    if section.verbatim is not None:
        # Indented code cannot be closed by anything that the text contains.
        blocks.append("\n".join(f"    {line}" for line in section.verbatim.splitlines()))
    return blocks


def markdown_table(table: Table) -> str:
    """A table in GitHub's flavour; what its cells hold is escaped."""
    rule = ["---:" if side == "r" else "---" for side in table.align]
    rows = [[_escape(cell) for cell in row] for row in (table.header, *table.rows)]
    lines = [rows[0], rule, *rows[1:]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _escape(text: str) -> str:
    return " ".join(text.split()).translate(_SPECIAL)
