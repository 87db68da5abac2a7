"""Documents of text from local files, the Hugging Face hub, or what Python itself brings."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pyarrow
import pyarrow.parquet

from bipft_compress.errors import PROGRAMMING_ERRORS, CorpusError
from bipft_compress.text.builtin import builtin_documents
from bipft_compress.text.mixture import interleave, parse_sources

BUILTIN = "builtin"
"""The source that needs neither a file nor a network: prose of Python's and sklearn's manuals."""

_LONGEST_DOCUMENT = 1_000_000  # characters of a .txt document; one without blank lines is cut here
_HUB_NAME = re.compile(r"(?P<name>\w[\w.-]*(?:/\w[\w.-]*)?)(?::(?P<config>[\w.-]+))?", re.ASCII)


def read_documents(source: str | Path) -> Iterator[str]:
    """Documents of a corpus, in order, one at a time; blank ones are left out.

    Args:
        source: a file, a directory that is searched for such files in sorted order, the name of a
            hub data set (its train split is streamed), or `BUILTIN`. A path that exists comes
            before a hub name. Files are `.txt` (UTF-8, blank lines separate documents, one of
            more than a million characters is cut), `.jsonl` or `.json` (an object a line, key
            "text") and `.parquet` (column "text"). A hub name is "name" or "owner/name", and
            ":config" may follow it. Several of these, with commas between and "@weight" after
            each, are interleaved: see `parse_sources` and `interleave`.

    Raises:
        CorpusError: nothing of that name, or no weight, at once; or, while iterating, a file that
            is not what its ending says, a document that is not a string, or no text in the whole
            corpus.
    """
    sources = parse_sources(source)
    documents = [_read_source(part.name) for part in sources]
    if len(documents) == 1:
        return documents[0]
    return interleave(documents, [part.weight for part in sources])


def _read_source(source: str) -> Iterator[str]:
    if source == BUILTIN:
        documents = builtin_documents()
    elif os.path.exists(source):
        documents = _local_documents(_local_files(Path(source)))
    else:
        documents = _hub_documents(source)
    return _require_text(documents, source)


def corpus_fingerprint(source: str | Path) -> str:
    """A key for caches: 64 hexadecimal digits that change when the corpus does.

    Of local files it covers name, size and time of change, of `BUILTIN` the versions it is taken
    from, and of a hub data set the name alone; of several sources also their weights.

    Raises:
        CorpusError: `source` is a directory or file that holds no text, or has no valid weight.
    """
    sources = parse_sources(source)
    if len(sources) == 1:
        return _fingerprint(sources[0].name)
    return _digest([(_fingerprint(part.name), part.weight) for part in sources])


def _fingerprint(source: str) -> str:
    state: list[object]
    if source == BUILTIN:
        state = [BUILTIN, platform.python_version(), version("scikit-learn")]
    elif os.path.exists(source):
        root = Path(source)
        files = [(path, path.stat()) for path in _local_files(root)]
        base = root if root.is_dir() else root.parent
        state = [
            (path.relative_to(base).as_posix(), stat.st_size, stat.st_mtime_ns)
            for path, stat in files
        ]
    else:
        state = [source]
    return _digest(state)


def _digest(state: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def _require_text(documents: Iterator[str], source: str | Path) -> Iterator[str]:
    empty = True
    for document in documents:
        if document and not document.isspace():
            empty = False
            yield document
    if empty:
        raise CorpusError(f"The corpus {source} holds no text.")


def _local_files(root: Path) -> list[Path]:
    endings = ", ".join(_READERS)
    if root.is_dir():
        files = sorted(
            path for path in root.rglob("*") if path.suffix.lower() in _READERS and path.is_file()
        )
        if not files:
            raise CorpusError(f"Directory {root} holds no text: none of its files is {endings}.")
        return files
    if root.suffix.lower() not in _READERS:
        raise CorpusError(f"{root} is not a kind of text that can be read: give one of {endings}.")
    return [root]


def _local_documents(files: list[Path]) -> Iterator[str]:
    for path in files:
        try:
            yield from _READERS[path.suffix.lower()](path)
        except UnicodeDecodeError:
            reason = "is not UTF-8 text; convert it to UTF-8 or take it out of the corpus"
            raise CorpusError(f"{path} {reason}.") from None
        except (pyarrow.ArrowException, OSError) as error:
            raise CorpusError(
                f"{path} cannot be read ({_reason(error)}); check that it is complete and yours "
                "to read."
            ) from error


def _read_txt(path: Path) -> Iterator[str]:
    lines: list[str] = []
    size = 0
    with path.open(encoding="utf-8-sig") as file:
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


def _read_json_lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.isspace():
                continue
            where = f"{path}, line {number}"
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise CorpusError(
                    f'{where} is not valid JSON ({_reason(error)}); write one {{"text": ...}} '
                    "to a line."
                ) from None
            if not isinstance(record, dict):
                raise CorpusError(
                    f'{where} is not a JSON object; write one {{"text": ...}} to a line.'
                )
            if "text" not in record:
                raise _no_text_column(where, record)
            yield _as_text(record["text"], where)


def _read_parquet(path: Path) -> Iterator[str]:
    with pyarrow.parquet.ParquetFile(path) as file:
        if "text" not in file.schema_arrow.names:
            raise _no_text_column(path, file.schema_arrow.names)
        row = 0
        for batch in file.iter_batches(batch_size=256, columns=["text"]):
            for value in batch.column(0).to_pylist():
                row += 1
                yield _as_text(value, f"{path}, row {row}")


_READERS: dict[str, Callable[[Path], Iterator[str]]] = {
    ".txt": _read_txt,
    ".jsonl": _read_json_lines,
    ".json": _read_json_lines,
    ".parquet": _read_parquet,
}


def _hub_documents(source: str) -> Iterator[str]:
    name = _HUB_NAME.fullmatch(source)
    if name is None or Path(source).suffix.lower() in _READERS:
        raise CorpusError(f"There is no file or directory {source!r}; check the path.")

    import datasets  # here, as it takes seconds and local files do without

    try:
        data = datasets.load_dataset(name["name"], name["config"], split="train", streaming=True)
    except PROGRAMMING_ERRORS:
        raise
    except Exception as error:  # the hub client raises a dozen kinds for network, name and config
        raise CorpusError(
            f"There is no file or directory {source!r}, and the Hugging Face hub gave no data set "
            f"of that name ({_reason(error)}); check the path, the name, or the network."
        ) from error
    return _stream(data, f"Data set {source}")


def _stream(data: Iterator[dict[str, object]], where: str) -> Iterator[str]:
    records = iter(data)
    while True:
        try:
            record = next(records)
        except StopIteration:
            return
        except Exception as error:  # none of ours: the call runs nothing else
            raise CorpusError(
                f"{where} broke off ({_reason(error)}); check the network or give local files."
            ) from error
        if "text" not in record:
            raise _no_text_column(where, record)
        yield _as_text(record["text"], where)


def _as_text(value: object, where: str) -> str:
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


def _no_text_column(where: str | Path, columns: Iterable[object]) -> CorpusError:
    present = ", ".join(map(str, columns)) or "none at all"
    return CorpusError(
        f'{where} has no column "text" (there is: {present}); rename the one that holds the text.'
    )


def _reason(error: BaseException) -> str:
    """The first line of what went wrong, to stand inside a sentence."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
