"""Counts what a compression saves, and shows it: JSON, Markdown, HTML and a terminal table."""

from bipft_compress.reporting.build import build_report, report_from_config
from bipft_compress.reporting.html import render_html
from bipft_compress.reporting.markdown import render_markdown
from bipft_compress.reporting.schema import (
    Measured,
    MeasuredSystem,
    Profile,
    Report,
    RunFacts,
    Score,
    Swapped,
    TrainingPoint,
    report_json_schema,
)
from bipft_compress.reporting.terminal import render_table
from bipft_compress.reporting.write import write_report

__all__ = [
    "Measured",
    "MeasuredSystem",
    "Profile",
    "Report",
    "RunFacts",
    "Score",
    "Swapped",
    "TrainingPoint",
    "build_report",
    "render_html",
    "render_markdown",
    "render_table",
    "report_from_config",
    "report_json_schema",
    "write_report",
]
