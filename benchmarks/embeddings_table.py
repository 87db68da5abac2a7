"""What `compare_embeddings.py` measured, as JSON and Markdown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bipft_compress.reporting.layout import Table
from bipft_compress.reporting.markdown import markdown_table
from bipft_compress.tasks.embedding_tasks import MAX_LENGTH

FIGURES = "embeddings.json"

_HEADINGS = {"sts_spearman_": "", "_probe_accuracy": "", "_ndcg@10": " nDCG@10"}
"""What measures are called, without what the text says already."""

TEXT = """\
# Sentence embeddings of a given size

Similarity (STS): Spearman's correlation of cosines with people's scores, in points; the mean is of
the sets after the first, which is for development. Retrieval: nDCG@10 by cosine. The last columns:
accuracy of a logistic regression on frozen embeddings. Bytes are those of the weights, without a
tokenizer. Models read the first {max_length} tokens of a text. A static table is the mean of its
tokens' rows; the control's rows are the original's word embeddings under the linear map that fits
the original's sentence embeddings best (ridge regression on {texts:,} sentences of the corpus named
below).

{table}
{missing}
Made by `{command}`, commit {commits}, on {machine}, seed {seed}.
"""


def _heading(measure: str) -> str:
    for part, short in _HEADINGS.items():
        measure = measure.replace(part, short)
    return measure


def comparison_table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown: a row for each system, a column for each measure."""
    measures = list(next(iter(rows.values()))["scores"]) if rows else []
    cells = [
        (
            name,
            row["note"],
            f"{row['bytes'] / 1e6:.2f} MB",
            *(f"{100 * row['scores'][measure]:.1f}" for measure in measures),
        )
        for name, row in rows.items()
    ]
    header = ("", "", "weights", *map(_heading, measures))
    return markdown_table(Table(header, "ll" + "r" * (len(header) - 2), cells))


def read_rows(out: Path) -> dict[str, dict[str, Any]]:
    """Name of each row in `out` to its note, bytes, scores and commit."""
    path = out / FIGURES
    return dict(json.loads(path.read_text())["rows"]) if path.is_file() else {}


def write_comparison(
    rows: dict[str, dict[str, Any]],
    missing: dict[str, str],
    provenance: dict[str, Any],
    out: Path,
) -> None:
    """Write the figures as JSON and ``README.md`` into `out`.

    Args:
        rows: see `read_rows`; in the order shown.
        missing: name of what could not be measured to the reason.
        provenance: command, machine, seed, and texts of the control.
        out: a directory.
    """
    values = {"provenance": provenance, "rows": rows}
    (out / FIGURES).write_text(json.dumps(values, indent=2) + "\n")
    text = TEXT.format(
        table=comparison_table(rows),
        missing="".join(f"\nNot measured: {name} ({why})\n" for name, why in missing.items()),
        commits=", ".join(sorted({row["commit"][:7] for row in rows.values()})),
        max_length=MAX_LENGTH,
        **provenance,
    )
    (out / "README.md").write_text(text)
