"""Writes a report: all of a file or nothing of it."""

from __future__ import annotations

from pathlib import Path

from bipft_compress.files import atomic_directory, check_output, is_vacant, write_atomically
from bipft_compress.reporting.html import render_html
from bipft_compress.reporting.markdown import render_markdown
from bipft_compress.reporting.schema import Report


def write_report(report: Report, out_dir: str | Path) -> list[Path]:
    """Write ``report.json``, ``report.md`` and ``report.html`` into `out_dir`.

    A directory that is missing or empty appears with all three; in another, files of these names
    are replaced, each at once. A reader or a crash never meets half a file.

    Returns:
        The three paths.

    Raises:
        OutputError: `out_dir` is a file or cannot be written.
    """
    check_output(out_dir, overwrite=True)
    directory = Path(out_dir)
    # All are rendered before the first is written: a fault in one leaves the old three in place.
    texts = {
        "report.json": report.model_dump_json(indent=2) + "\n",
        "report.md": render_markdown(report),
        "report.html": render_html(report),
    }
    if is_vacant(directory):
        # Killed before it is whole, it can be written again without --overwrite.
        with atomic_directory(directory) as work:
            _write(texts, work)
    else:
        _write(texts, directory)
    return [directory / name for name in texts]


def _write(texts: dict[str, str], directory: Path) -> None:
    for name, text in texts.items():
        write_atomically(directory / name, text)
