"""The report as one HTML file that needs nothing outside itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from bipft_compress.reporting.figures import draw_figures
from bipft_compress.reporting.layout import Card, Section
from bipft_compress.reporting.schema import Report
from bipft_compress.reporting.sections import first_figures, sections, title

_ALT = {
    "summary": "What is left of the original's operations, memory, latency and quality, in percent",
    "operations": "Operations by kind in full precision and compressed",
    "memory": "Memory by kind in full precision and compressed",
    "profile": "Milliseconds of each stage of a forward pass, and the limit of its products",
    "errors": "Squared error of each layer",
    "training": "Training loss against tokens",
}


def render_html(report: Report) -> str:
    """The whole report; whatever comes from the user is escaped."""
    return render_page(
        title(report), first_figures(report), sections(report), draw_figures(report), _ALT
    )


def render_page(
    heading: str,
    cards: Sequence[Card],
    parts: Sequence[Section],
    figures: Mapping[str, str],
    alternatives: Mapping[str, str],
) -> str:
    """A page of sections.

    Args:
        heading: title of the page.
        cards: figures of its first screen; those of the first section's table, in words.
        parts: sections, in order.
        figures: name to SVG.
        alternatives: name to what the figure shows, in words.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files(__package__).joinpath("template.html").read_text(encoding="utf-8")
    # matplotlib escapes the text in its drawings, so they go in as they are.
    drawn = {name: Markup(svg) for name, svg in figures.items()}  # noqa: S704
    return environment.from_string(source).render(
        title=heading, cards=cards, sections=parts, figures=drawn, alt=alternatives
    )
