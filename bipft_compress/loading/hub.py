"""Single files of checkpoints, on the hub at the revision that was named, or here."""

from __future__ import annotations

from pathlib import Path

from transformers.utils.hub import cached_file

from bipft_compress.errors import CheckpointError, first_line
from bipft_compress.sources import split_revision


def find_file(checkpoint: str | Path, name: str) -> Path | None:
    """Where a file of a checkpoint lies; None where it has no such file.

    Args:
        checkpoint: hub name, also as ``name@revision``, or local directory.
        name: of the file, within the checkpoint.

    Raises:
        CheckpointError: the hub does not answer.
    """
    source, revision = split_revision(checkpoint)
    try:
        path = cached_file(
            source, name, revision=revision, _raise_exceptions_for_missing_entries=False
        )
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{checkpoint} cannot be read ({first_line(error)}).") from None
    return None if path is None else Path(path)
