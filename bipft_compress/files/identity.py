"""What a run was made of, so that another run is told apart from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bipft_compress.files.reading import sha256

_ABSENT = object()
_LONGEST_SHOWN = 24
"""Characters of a value that is shown in a message; a checksum has more."""


def content_digest(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, or of the names and bytes of all files below a directory.

    Raises:
        CheckpointError: there is no such file, or one cannot be read.
    """
    if not path.is_dir():
        return sha256(path)
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file():
            digest.update(f"{file.relative_to(path).as_posix()}\0{sha256(file)}\n".encode())
    return digest.hexdigest()


def json_digest(values: Mapping[str, Any]) -> str:
    """Hexadecimal SHA-256 of JSON values, whatever their order and layout in a file."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


CHECKSUM = "sha256"
"""Key of the checksum of all other keys that `sealed` adds."""


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values as they will be read, a tuple being a list then, with a checksum of their own."""
    copied: dict[str, Any] = json.loads(json.dumps(values))
    copied.pop(CHECKSUM, None)
    return {**copied, CHECKSUM: json_digest(copied)}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What two identities, of JSON, do not share: each a name with dots, short values beside it."""
    return list(_differences(before, json.loads(json.dumps(now)), ""))


def _differences(before: Any, now: Any, name: str) -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys((*now, *before)):
            inner = f"{name}.{key}" if name else str(key)
            yield from _differences(before.get(key, _ABSENT), now.get(key, _ABSENT), inner)
    elif before != now:
        shown = [json.dumps(value) for value in (before, now) if value is not _ABSENT]
        if len(shown) == 2 and all(len(text) <= _LONGEST_SHOWN for text in shown):
            name += f" ({shown[0]} there, {shown[1]} here)"
        yield name
