"""Writes a report: all of a file or nothing of it."""

from __future__ import annotations

from pathlib import Path

from bipft_compress.files import check_output, write_atomically
from bipft_compress.reporting.html import render_html
from bipft_compress.reporting.markdown import render_markdown
from bipft_compress.reporting.schema import Report


def write_report(report: Report, out_dir: str | Path) -> list[Path]:
    """Write ``report.json``, ``report.md`` and ``report.html`` into `out_dir`.

    The directory is made where it is missing; files of these names are replaced, each at once, so
    that a reader or a crash never meets half a file.

    Returns:
        The three paths.

    Raises:
        OutputError: `out_dir` is a file or cannot be written.
    """
    check_output(Path(out_dir), overwrite=True)
    # All are rendered before the first is written: a fault in one leaves the old three in place.
    texts = {
        Path(out_dir, "report.json"): report.model_dump_json(indent=2) + "\n",
        Path(out_dir, "report.md"): render_markdown(report),
        Path(out_dir, "report.html"): render_html(report),
    }
    for path, text in texts.items():
        write_atomically(path, text)
    return list(texts)
