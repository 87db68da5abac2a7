"""Documents of one file: text, JSON lines, CSV or Parquet, compressed or not."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO

import pyarrow
import pyarrow.parquet

from bipft_compress.errors import CorpusError, first_line

COLUMN = "text"
"""The column that is read where none is named."""

_LONGEST_DOCUMENT = 1_000_000  # characters of a .txt document; one without blank lines is cut here


def is_text(path: Path) -> bool:
    """Whether a file's name ends like one that can be read."""
    return _ending(path) in READERS


def read_file(path: Path, column: str = COLUMN) -> Iterator[str]:
    """The documents of a file, in order.

    Raises:
        CorpusError: it is not what its ending says, or has no such column.
    """
    try:
        yield from READERS[_ending(path)](path, column)
    except UnicodeDecodeError:
        raise CorpusError(
            f"{path} is not UTF-8 text; convert it to UTF-8 or take it out of the corpus."
        ) from None
    except (pyarrow.ArrowException, OSError, EOFError, csv.Error) as error:
        raise CorpusError(
            f"{path} cannot be read ({reason(error)}); check that it is complete and yours to read."
        ) from error


def _ending(path: Path) -> str:
    """``.txt`` of ``a.txt`` and of ``a.txt.gz``."""
    plain = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return plain.suffix.lower()


def _open(path: Path, newline: str | None = None) -> IO[str]:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline=newline)
    return path.open(encoding="utf-8-sig", newline=newline)


def _read_txt(path: Path, _: str) -> Iterator[str]:
    lines: list[str] = []
    size = 0
    with _open(path) as file:
        # readline is bounded: a file without any line break must not be read as one line.
        for line in iter(partial(file.readline, _LONGEST_DOCUMENT), ""):
            if "\0" in line:
                raise CorpusError(f"{path} is binary data, not text; take it out of the corpus.")
            if line.isspace() or size + len(line) > _LONGEST_DOCUMENT:
                if lines:
                    yield "".join(lines).rstrip("\n")
                lines, size = [], 0
            if not line.isspace():
                lines.append(line)
                size += len(line)
    if lines:
        yield "".join(lines).rstrip("\n")


def _read_json_lines(path: Path, column: str) -> Iterator[str]:
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if line.isspace():
                continue
            where = f"{path}, line {number}"
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise CorpusError(
                    f'{where} is not valid JSON ({reason(error)}); write one {{"{column}": ...}} '
                    "to a line."
                ) from None
            if not isinstance(record, dict):
                raise CorpusError(
                    f'{where} is not a JSON object; write one {{"{column}": ...}} to a line.'
                )
            yield as_text(record, column, where)


def _read_csv(path: Path, column: str) -> Iterator[str]:
    delimiter = "\t" if _ending(path) == ".tsv" else ","
    csv.field_size_limit(_LONGEST_DOCUMENT)
    with _open(path, newline="") as file:
        for number, record in enumerate(csv.DictReader(file, delimiter=delimiter), start=1):
            yield as_text(record, column, f"{path}, row {number}")


def _read_parquet(path: Path, column: str) -> Iterator[str]:
    with pyarrow.parquet.ParquetFile(path) as file:
        if column not in file.schema_arrow.names:
            raise _no_column(path, file.schema_arrow.names, column)
        row = 0
        for batch in file.iter_batches(batch_size=256, columns=[column]):
            for value in batch.column(0).to_pylist():
                row += 1
                yield as_text({column: value}, column, f"{path}, row {row}")


READERS: dict[str, Callable[[Path, str], Iterator[str]]] = {
    ".txt": _read_txt,
    ".jsonl": _read_json_lines,
    ".json": _read_json_lines,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}
"""By the ending of a file's name, before ``.gz`` where it is compressed."""


def as_text(record: dict[str, object], column: str, where: str) -> str:
    """The text of a record.

    Raises:
        CorpusError: it has no such column, or something else there.
    """
    if column not in record:
        raise _no_column(where, record, column)
    value = record[column]
    if not isinstance(value, str):
        kind = "null" if value is None else type(value).__name__
        raise CorpusError(f"{where}: the text is {kind}, not a string; mend or remove that record.")
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON can escape half of a surrogate pair
        raise CorpusError(
            f"{where}: the text has a lone surrogate; mend or remove that record."
        ) from None
    return value


def _no_column(where: str | Path, columns: Iterable[object], column: str) -> CorpusError:
    present = ", ".join(map(str, columns)) or "none at all"
    return CorpusError(
        f'{where} has no column "{column}" (there is: {present}); name the one that holds the text '
        "after a #, as in reviews.csv#review."
    )


def reason(error: BaseException) -> str:
    """The first line of what went wrong, to stand inside a sentence."""
    return first_line(error).rstrip(".")
