"""The report as one HTML file that needs nothing outside itself."""

from __future__ import annotations

from importlib import resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from bipft_compress.reporting.figures import draw_figures
from bipft_compress.reporting.schema import Report
from bipft_compress.reporting.sections import headline, sections, title

_ALT = {
    "operations": "Operations by kind in full precision and compressed",
    "memory": "Memory by kind in full precision and compressed",
    "profile": "Milliseconds of each stage of a forward pass, and the limit of its products",
    "errors": "Squared error of each layer",
    "training": "Training loss against tokens",
}


def render_html(report: Report) -> str:
    """The whole report; whatever comes from the user is escaped."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files(__package__).joinpath("template.html").read_text(encoding="utf-8")
    # matplotlib escapes the text in its drawings, so they go in as they are.
    figures = {name: Markup(svg) for name, svg in draw_figures(report).items()}  # noqa: S704
    return environment.from_string(source).render(
        title=title(report),
        headline=headline(report),
        sections=sections(report),
        figures=figures,
        alt=_ALT,
    )
