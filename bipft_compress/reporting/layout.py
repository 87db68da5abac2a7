"""Sections and tables of a report, before they are rendered."""

from __future__ import annotations

from dataclasses import dataclass

Row = tuple[str, ...]


@dataclass(frozen=True)
class Card:
    """A figure of a page's first screen.

    Attributes:
        value: the figure itself.
        name: what it counts.
        detail: before and after, or where it comes from.
    """

    value: str
    name: str
    detail: str


@dataclass(frozen=True)
class Table:
    """A header, rows, and for each column ``l`` or ``r``: its alignment."""

    header: Row
    align: str
    rows: list[Row]


@dataclass(frozen=True)
class Section:
    """A title with any of: paragraphs, a figure, a table, a list, verbatim text."""

    title: str
    text: tuple[str, ...] = ()
    figure: str | None = None
    table: Table | None = None
    items: tuple[str, ...] = ()
    verbatim: str | None = None
    folded: bool = False
    """Long and rarely read: HTML shows its title only, until it is opened."""
