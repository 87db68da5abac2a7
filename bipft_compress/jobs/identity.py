"""What goes into a run, by content: whoever goes on with it must bring the same."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from bipft_compress.checkpoint.identity import checkpoint_identity
from bipft_compress.errors import TrainingError
from bipft_compress.files import content_digest
from bipft_compress.text.corpus import BUILTIN, corpus_fingerprint, locate
from bipft_compress.text.readers import COLUMN


def corpus_identity(source: str | Path) -> str:
    """Checksum of a local corpus, the versions behind the built-in one, or the name of a hub's.

    Raises:
        UserError: a file cannot be read.
    """
    path, column = locate(str(source))
    if path == BUILTIN or not os.path.exists(path):
        return corpus_fingerprint(source)
    digest = content_digest(Path(path))
    return digest if column == COLUMN else f"{digest}#{column}"


def training_identity(student: str | Path, teacher: str | Path | None) -> dict[str, Any]:
    """Identity of what is trained and of its teacher.

    Raises:
        TrainingError: they are one and the same.
        CheckpointError: see `checkpoint_identity`.
    """
    identity = {
        "checkpoint": checkpoint_identity(student),
        "teacher": checkpoint_identity(teacher),
    }
    if identity["checkpoint"] == identity["teacher"]:
        raise TrainingError(
            f"The teacher {teacher} is the checkpoint itself: give its full-precision original."
        )
    return identity
