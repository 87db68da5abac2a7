"""Tables of a report for a terminal."""

from __future__ import annotations

from rich.table import Table as RichTable
from rich.text import Text

from bipft_compress.errors import printable
from bipft_compress.reporting.layout import Table
from bipft_compress.reporting.schema import Report
from bipft_compress.reporting.sections import headline, title


def render_table(report: Report) -> RichTable:
    """Before and after, to be printed by a `rich.console.Console`."""
    return rich_table(headline(report), title(report))


def rich_table(table: Table, title: str) -> RichTable:
    """Any table of a report, under a title."""
    shown = RichTable(title=_plain(title), title_justify="left")
    for name, side in zip(table.header, table.align, strict=True):
        shown.add_column(_plain(name), justify="right" if side == "r" else "left")
    for row in table.rows:
        shown.add_row(*map(_plain, row))
    return shown


def _plain(text: str) -> Text:
    """Text, not str: a name with brackets in it is no markup."""
    return Text(printable(text))
