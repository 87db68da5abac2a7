"""Binary checkpoints on disk: those that can be trained, and packed artefacts that run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bipft_compress.checkpoint.hub import local_directory
from bipft_compress.checkpoint.mark import is_packed
from bipft_compress.checkpoint.packed import load_packed, packed_copy, unpack
from bipft_compress.checkpoint.record import Record
from bipft_compress.checkpoint.trainable import load_trainable, save

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "is_packed",
    "load",
    "load_packed",
    "load_trainable",
    "local_directory",
    "packed_copy",
    "save",
    "unpack",
]


def load(directory: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Record]:
    """Read a binary checkpoint, packed or not, of a directory or of the hub.

    Args:
        directory: or a hub name, also as ``name@revision``.

    See `load_packed` and `load_trainable`.
    """
    path = local_directory(directory)
    return load_packed(path) if is_packed(path) else load_trainable(path)
