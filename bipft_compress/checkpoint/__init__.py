"""Binary checkpoints on disk: those that can be trained, and packed artefacts that run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bipft_compress.checkpoint.mark import is_packed
from bipft_compress.checkpoint.packed import load_packed, unpack
from bipft_compress.checkpoint.record import Record
from bipft_compress.checkpoint.trainable import load_trainable, save

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["is_packed", "load", "load_packed", "load_trainable", "save", "unpack"]


def load(directory: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Record]:
    """Read a binary checkpoint, packed or not: see `load_packed` and `load_trainable`."""
    path = Path(directory)
    return load_packed(path) if is_packed(path) else load_trainable(path)
