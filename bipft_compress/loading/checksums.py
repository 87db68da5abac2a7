"""Checksums of what fine-tuning writes for other libraries to read, which know of none.

They are kept in `FINE_TUNED`, beside a full-precision checkpoint or a PEFT adapter. A binary
checkpoint has a record with its own: see `checkpoint.record`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bipft_compress.errors import CheckpointError
from bipft_compress.files import (
    CHECKSUM,
    json_digest,
    read_json,
    sealed,
    sha256,
    write_atomically,
)

FINE_TUNED = "finetuning.json"
"""Beside a fine-tuned model without a compression record: task, labels, metrics, provenance, what
its head reads (null without a head), and checksums."""

READ_SUFFIXES = (".json", ".txt", ".model", ".safetensors", ".bin", ".jinja")
"""Of the files that a checkpoint may be read from."""

_FILES = "files"


def write_fine_tuned(directory: Path, values: Mapping[str, Any]) -> None:
    """Write `FINE_TUNED` with `values`, a checksum of every file that is read, and its own."""
    files = {name: sha256(path) for name, path in _read_files(directory)}
    content = sealed({**values, _FILES: files})
    write_atomically(directory / FINE_TUNED, json.dumps(content, indent=2))


def read_fine_tuned(directory: Path) -> dict[str, Any]:
    """The values of `FINE_TUNED`, after a check of every file beside it that would be read.

    One without checksums, of an older release, is taken as it is.

    Raises:
        CheckpointError: it is missing or was changed; a file that it lists is missing or was
            changed; or one that it does not list was added.
    """
    path = directory / FINE_TUNED
    values = read_json(path)
    checksum = values.pop(CHECKSUM, None)
    listed = values.get(_FILES)
    if checksum is None and listed is None:
        return values
    if checksum != json_digest(values) or not isinstance(listed, dict):
        raise CheckpointError(f"{path} does not match its own checksum: fine-tune again.")
    present = dict(_read_files(directory))
    for name in sorted(listed.keys() | present.keys()):
        if name not in present:
            raise CheckpointError(f"{directory} has no {name}: the checkpoint is incomplete.")
        if name not in listed:
            raise CheckpointError(
                f"{present[name]} is not of the fine-tuning that made the checkpoint, and would be "
                "read: remove it."
            )
        if sha256(present[name]) != listed[name]:
            raise CheckpointError(
                f"{present[name]} does not match its checksum: it was changed; fine-tune again."
            )
    return values


def _read_files(directory: Path) -> list[tuple[str, Path]]:
    return [
        (path.relative_to(directory).as_posix(), path)
        for path in sorted(directory.rglob("*"))
        if path.suffix in READ_SUFFIXES and path.is_file() and path.name != FINE_TUNED
    ]
