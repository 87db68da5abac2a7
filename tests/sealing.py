"""Changes of a checkpoint with checksums that match: what a fault or an attacker would write."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import safe_open

from bipft_compress.checkpoint.artefact import digest
from bipft_compress.checkpoint.record import RECORD, WEIGHTS
from bipft_compress.files import sealed
from bipft_compress.loading.checksums import FINE_TUNED, write_fine_tuned


def edit_record(directory: Path, **values: Any) -> None:
    """Change keys of a record; its own checksum matches again."""
    record = json.loads((directory / RECORD).read_text()) | values
    seal(directory / RECORD, record)


def seal(path: Path, values: dict[str, Any]) -> None:
    """Write a record, or what fine-tuning keeps in its place, as it is but for its own checksum."""
    path.write_text(json.dumps(sealed(values)))


def reseal(directory: Path) -> None:
    """Make every checksum match the files as they are now."""
    if not (directory / RECORD).is_file():
        write_fine_tuned(directory, json.loads((directory / FINE_TUNED).read_text()))
        return
    record = json.loads((directory / RECORD).read_text())
    for name in record["files"]:
        record["files"][name] = hashlib.sha256((directory / name).read_bytes()).hexdigest()
    record["weights_sha256"] = hashlib.sha256((directory / WEIGHTS).read_bytes()).hexdigest()
    if record["tensors"]:
        with safe_open(directory / WEIGHTS, framework="pt") as file:
            record["tensors"] = {name: digest(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    seal(directory / RECORD, record)


def lay_beside(directory: Path) -> None:
    """Add a file that transformers would read and no record lists: it makes two words one token."""
    added = {"additional_special_tokens": ["ab cd"]}
    (directory / "special_tokens_map.json").write_text(json.dumps(added))
