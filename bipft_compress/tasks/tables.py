"""Rows of labelled data from the files that tables come in."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from bipft_compress.errors import CorpusError, first_line

ENDINGS = (".tsv", ".csv", ".jsonl", ".parquet")


def read_rows(path: Path, columns: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Rows of a table, column name to value.

    Args:
        path: ``.tsv`` (tab-separated, no quoting), ``.csv``, ``.jsonl`` or ``.parquet``.
        columns: names of a file that has no header.

    Raises:
        CorpusError: the file is missing, of another kind, or cannot be read.
    """
    if not path.is_file():
        raise CorpusError(f"There is no file {path}: give one of {', '.join(ENDINGS)}.")
    if path.suffix not in ENDINGS:
        raise CorpusError(f"{path} is no table that can be read: give one of {', '.join(ENDINGS)}.")
    try:
        if path.suffix == ".parquet":
            rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
            return rows
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".jsonl":
                return [json.loads(line) for line in file if not line.isspace()]
            tabs = path.suffix == ".tsv"
            reader = csv.DictReader(
                file,
                fieldnames=columns or None,
                delimiter="\t" if tabs else ",",
                # GLUE's files have unbalanced quotes: they are characters, not syntax.
                quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
            )
            return list(reader)
    except (ValueError, csv.Error, pyarrow.ArrowException, OSError) as error:
        raise CorpusError(f"{path} cannot be read as a table ({first_line(error)}).") from None


def column(rows: Sequence[dict[str, Any]], name: str, where: str) -> list[Any]:
    """The values of one column.

    Args:
        rows: see `read_rows`.
        name: of the column.
        where: names the data in faults.

    Raises:
        CorpusError: there is no row or no such column, or a row has no value in it.
    """
    if not rows:
        raise CorpusError(f"{where} holds no rows.")
    values = []
    for number, row in enumerate(rows, start=1):
        value = row.get(name) if isinstance(row, dict) else None
        if value is None:
            present = ", ".join(str(key) for key in row) if isinstance(row, dict) else "none"
            raise CorpusError(
                f"{where} has no column {name!r} in row {number} (there is: {present}): correct "
                "the name or mend the file."
            )
        values.append(value)
    return values
