"""The header of a safetensors file, read and checked before any other code trusts it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from bipft_compress.checkpoint.record import METADATA
from bipft_compress.errors import CheckpointError

TYPES = {"U8": torch.uint8, "F16": torch.float16, "F32": torch.float32}
"""Number types that a packed artefact uses, by their names in the file."""

_METADATA = {"format": "pt", METADATA: ""}
"""What the header says of the file, but for the record that may be there."""

_LARGEST = 100_000_000
_LENGTH_BYTES = 8


@dataclass(frozen=True)
class Entry:
    """What the header says of a tensor; its bytes are ``[begin, end)`` after the header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path) -> dict[str, Entry]:
    """Tensors of the file by name.

    Raises:
        CheckpointError: the file is missing, truncated, or its header is not one this package
            writes: another type of number, overlapping or unused bytes, a name twice.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing.")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if size < _LENGTH_BYTES or length > min(size - _LENGTH_BYTES, _LARGEST):
            raise _damaged(path, f"{size:,} bytes cannot hold a header of {length:,}")
        text = file.read(length)
    try:
        values = json.loads(text.decode(), object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise _damaged(path, "its header is not valid JSON") from None
    metadata = values.pop("__metadata__", None) if isinstance(values, dict) else None
    if not isinstance(metadata, dict) or metadata | {METADATA: ""} != _METADATA:
        raise _damaged(path, "its header is not one that bipft-compress writes")
    entries = {name: _entry(path, name, value) for name, value in values.items()}
    spans = sorted((entry.begin, entry.end) for entry in entries.values())
    ends = [(0, 0), *spans, (size - _LENGTH_BYTES - length,) * 2]
    if any(before[1] != after[0] for before, after in pairwise(ends)):
        raise _damaged(path, "its tensors overlap, leave gaps, or do not fill the file")
    return entries


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path} is truncated or damaged: {reason}; pack the checkpoint again.")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name twice")
    return values


def _entry(path: Path, name: str, value: Any) -> Entry:
    match value:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end], **more}:
            numbers = [*shape, begin, end]
            whole = all(type(number) is int and number >= 0 for number in numbers)
            if not more and dtype in TYPES and whole:
                entry = Entry(TYPES[dtype], tuple(shape), begin, end)
                if end - begin == math.prod(shape) * entry.dtype.itemsize:
                    return entry
    raise _damaged(path, f"its header says of {name!r} what cannot be")
