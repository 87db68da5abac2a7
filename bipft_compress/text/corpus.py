"""Documents of text from local files, the Hugging Face hub, or what Python itself brings."""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from bipft_compress.errors import PROGRAMMING_ERRORS, CorpusError
from bipft_compress.processes import process_count
from bipft_compress.text.builtin import builtin_documents
from bipft_compress.text.mixture import interleave, parse_sources
from bipft_compress.text.readers import COLUMN, READERS, as_text, is_text, read_file, reason

BUILTIN = "builtin"
"""The source that needs neither a file nor a network: prose of Python's and sklearn's manuals."""

STDIN = "-"
"""The source that is read from standard input, as a `.txt` file."""

Corpus = str | Path | Sequence[str]
"""What names a corpus (see `read_documents`), or its documents themselves."""

_HUB_NAME = re.compile(
    r"(?P<name>\w[\w.-]*(?:/\w[\w.-]*)?)(?::(?P<config>[\w.-]*))?(?::(?P<split>[\w.-]+))?",
    re.ASCII,
)


class Place(NamedTuple):
    """Where documents lie, and the column that holds their text."""

    path: str
    column: str


def read_documents(source: Corpus) -> Iterator[str]:
    """Documents of a corpus, in order, one at a time; blank ones are left out.

    Args:
        source: the documents themselves; or a file, a directory that is searched for such files in
            sorted order, the name of a hub data set (streamed), `BUILTIN` or `STDIN`. A path that
            exists comes before a hub name. Files are `.txt` (UTF-8, blank lines separate
            documents, one of more than a million characters is cut), `.jsonl` or `.json` (an
            object a line), `.csv`, `.tsv` and `.parquet`; all but the last also with `.gz` behind.
            The text is in the column "text", or in the one that is named after a "#". A hub name
            is "name" or "owner/name", and ":config" and ":split" may follow it. Several of
            these, with commas between and "@weight" after each, are interleaved: see
            `parse_sources` and `interleave`.

    Raises:
        CorpusError: nothing of that name, or no weight, at once; or, while iterating, a file that
            is not what its ending says, a document that is not a string, or no text in the whole
            corpus.
    """
    if not isinstance(source, (str, Path)):
        return _require_text(iter(source), "that was given")
    sources = parse_sources(source)
    documents = [_read_source(part.name) for part in sources]
    if len(documents) == 1:
        return documents[0]
    return interleave(documents, [part.weight for part in sources])


def describe_corpus(source: Corpus) -> str:
    """What a sentence calls a corpus."""
    return str(source) if isinstance(source, (str, Path)) else f"{len(source):,} texts"


def locate(source: str) -> Place:
    """The place that a single source names: a path, a hub name or `BUILTIN`."""
    if source == STDIN:
        return Place(str(_stdin()), COLUMN)
    path, hash_sign, column = source.rpartition("#")
    if os.path.exists(source) or not hash_sign:
        return Place(source, COLUMN)
    return Place(path, column)


@cache
def _stdin() -> Path:
    """Standard input as a file, since a corpus is read more than once.

    Raises:
        CorpusError: of several processes, which do not share it.
    """
    if process_count() > 1:
        raise CorpusError(
            "Standard input reaches one of several processes alone: give the text as a file."
        )
    folder = tempfile.mkdtemp(prefix="bipft-compress-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder, "stdin.txt")
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    return path


def _read_source(name: str) -> Iterator[str]:
    source = locate(name)
    if source.path == BUILTIN:
        documents = builtin_documents()
    elif os.path.exists(source.path):
        files = _local_files(Path(source.path))
        documents = chain.from_iterable(read_file(path, source.column) for path in files)
    else:
        documents = _hub_documents(source)
    return _require_text(documents, name)


def corpus_fingerprint(source: Corpus) -> str:
    """A key for caches: 64 hexadecimal digits that change when the corpus does.

    Of local files it covers name, size and time of change, of `BUILTIN` the versions it is taken
    from, and of a hub data set the name alone; of several sources also their weights.

    Raises:
        CorpusError: `source` is a directory or file that holds no text, or has no valid weight.
    """
    if not isinstance(source, (str, Path)):
        return _digest(list(source))
    sources = parse_sources(source)
    if len(sources) == 1:
        return _fingerprint(sources[0].name)
    return _digest([(_fingerprint(part.name), part.weight) for part in sources])


def _fingerprint(name: str) -> str:
    state: list[object]
    source, column = locate(name)
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
    if column != COLUMN:
        state.append(column)
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
    endings = ", ".join(READERS)
    if root.is_dir():
        files = sorted(path for path in root.rglob("*") if is_text(path) and path.is_file())
        if not files:
            raise CorpusError(f"Directory {root} holds no text: none of its files is {endings}.")
        return files
    if not is_text(root):
        raise CorpusError(f"{root} is not a kind of text that can be read: give one of {endings}.")
    return [root]


def _hub_documents(source: Place) -> Iterator[str]:
    place = source.path
    name = _HUB_NAME.fullmatch(place)
    if name is None or is_text(Path(place)):
        raise CorpusError(f"There is no file or directory {place!r}; check the path.")

    import datasets  # here, as it takes seconds and local files do without

    try:
        data = datasets.load_dataset(
            name["name"], name["config"] or None, split=name["split"] or "train", streaming=True
        )
    except PROGRAMMING_ERRORS:
        raise
    except Exception as error:  # the hub client raises a dozen kinds for network, name and config
        raise CorpusError(
            f"There is no file or directory {place!r}, and the Hugging Face hub gave no data set "
            f"of that name ({reason(error)}); check the path, the name, or the network."
        ) from error
    return _stream(data, source)


def _stream(data: Iterator[dict[str, object]], source: Place) -> Iterator[str]:
    where, records = f"Data set {source.path}", iter(data)
    while True:
        try:
            record = next(records)
        except StopIteration:
            return
        except Exception as error:  # none of ours: the call runs nothing else
            raise CorpusError(
                f"{where} broke off ({reason(error)}); check the network or give local files."
            ) from error
        yield as_text(record, source.column, where)
