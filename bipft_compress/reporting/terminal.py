"""Tables of a report for a terminal."""

from __future__ import annotations

from rich.table import Table as RichTable
from rich.text import Text

from bipft_compress.reporting.layout import Table
from bipft_compress.reporting.schema import Report
from bipft_compress.reporting.sections import headline, title


def render_table(report: Report) -> RichTable:
    """Before and after, to be printed by a `rich.console.Console`."""
    return rich_table(headline(report), title(report))


def rich_table(table: Table, title: str) -> RichTable:
    """Any table of a report, under a title."""
    # Text, not str: a name with brackets in it is no markup.
    shown = RichTable(title=Text(title), title_justify="left")
    for name, side in zip(table.header, table.align, strict=True):
        shown.add_column(name, justify="right" if side == "r" else "left")
    for row in table.rows:
        shown.add_row(*(Text(cell) for cell in row))
    return shown
