"""What a checkpoint holds, so that a run that goes on can tell whether it is still the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bipft_compress.checkpoint.record import WEIGHTS, Record, is_binary
from bipft_compress.files import sha256
from bipft_compress.loading import encoder_source, load_config
from bipft_compress.loading.checksums import READ_SUFFIXES
from bipft_compress.loading.sentence import module_folders
from bipft_compress.loading.weights import fetch


def checkpoint_identity(source: str | Path | None) -> dict[str, Any] | None:
    """What is read of a checkpoint: checksums of a directory's files, or the hub's commit.

    Of a binary checkpoint neither its past nor what was measured counts: `evaluate` changes that.

    Args:
        source: a directory, full-precision, binary, packed or an adapter; a hub name; or None.

    Returns:
        A mapping of JSON; None for None.

    Raises:
        CheckpointError: the hub does not answer, or a file cannot be read.
    """
    if source is None:
        return None
    path = Path(source)
    if not path.is_dir():
        encoder = encoder_source(source)
        load_config(encoder)
        # The hub's cache has a directory for each commit.
        return {"hub": str(source), "commit": _commit(fetch(encoder))}
    if is_binary(path):
        record = Record.read(path)
        names = {WEIGHTS, "config.json", *record.files}
        identity: dict[str, Any] = {"recipe": record.recipe.model_dump(mode="json")}
    else:
        names = {
            file.relative_to(path).as_posix()
            for folder in (path, *module_folders(path))
            for file in folder.iterdir()
            if file.suffix in READ_SUFFIXES and file.is_file()
        }
        identity = {}
    return identity | {name: sha256(path / name) for name in sorted(names)}


def _commit(folder: Path) -> str:
    """The commit that a directory in the hub's cache is of."""
    parts = folder.parts
    return parts[parts.index("snapshots") + 1]
