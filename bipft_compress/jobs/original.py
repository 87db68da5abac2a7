"""The full-precision original of a binary checkpoint: where it is, and what to do if it moved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bipft_compress import checkpoint, loading
from bipft_compress.checkpoint.record import Record, is_binary
from bipft_compress.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def published_name(source: str) -> str:
    """What a published artefact calls its original: a hub's name, or of a path the last part.

    A path stays one, so that no one takes it for a name of the hub.
    """
    path = Path(source)
    return f"./{path.name}" if path.is_absolute() else source


def load_original(
    record: Record, teacher: str | Path | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The original that a record names, or `teacher` instead.

    Raises:
        CheckpointError: it cannot be read.
    """
    with telling_of_teacher(teacher):
        return loading.load_pretrained(teacher or record.teacher)


def read_teacher(source: str | Path, record: Record) -> PreTrainedModel:
    """What a pretraining learns from: a full-precision checkpoint, or a binary one.

    Raises:
        CheckpointError: it cannot be read.
    """
    if is_binary(checkpoint.local_directory(source)):
        return checkpoint.load_trainable(source)[0]
    return loading.load_pretrained(source, mlm_head=record.recipe.objective.fresh_mlm_head)[0]


@contextmanager
def telling_of_teacher(teacher: str | Path | None) -> Iterator[None]:
    """Say in a `CheckpointError` how to name another original, where none was named."""
    try:
        yield
    except CheckpointError as error:
        if teacher is not None:
            raise
        raise CheckpointError(
            f"{error} The record names it as the full-precision original: give --teacher if that "
            "has moved."
        ) from None
