"""The full-precision original of a binary checkpoint: where it is, and what to do if it moved."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bipft_compress import checkpoint, loading
from bipft_compress.allocation import Allocator
from bipft_compress.checkpoint.record import Record, is_binary
from bipft_compress.errors import CheckpointError
from bipft_compress.loading import SentencePipeline
from bipft_compress.nn.pooling import Pool
from bipft_compress.recipe import Recipe
from bipft_compress.structure.unused import without_unused

if TYPE_CHECKING:
    import torch
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


@dataclass(frozen=True)
class Original:
    """A full-precision checkpoint as it is compressed."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    pipeline: SentencePipeline | None
    recipe: Recipe
    """The recipe asked for, with the pooling of `pipeline` in its readout."""

    @property
    def pool(self) -> Pool:
        """From hidden states to a sentence's embedding."""
        return loading.pool_of(self.pipeline, str(self.model.config.name_or_path))

    def allocator(self, calibration: str | Path) -> Allocator:
        """What chooses its bits, on text like that the model will see."""
        return Allocator(
            self.model, self.tokenizer, self.recipe, calibration, pipeline=self.pipeline
        )


def read_original(source: str | Path, recipe: Recipe, device: torch.device) -> Original:
    """Read what is compressed, without what a packed model of it does not keep.

    Raises:
        UserError: it cannot be read.
    """
    model, tokenizer = loading.load_pretrained(source, mlm_head=recipe.objective.fresh_mlm_head)
    pipeline = loading.read_pipeline(source)
    if pipeline is not None:
        longest = int(min(tokenizer.model_max_length, pipeline.max_length or math.inf))
        tokenizer.model_max_length = longest
        if pipeline.first_token:
            recipe = recipe.changed(readout={"pooling": "first"})
        if not recipe.kept.unused:
            model = without_unused(model, longest)
    model.to(device)  # type: ignore[arg-type]
    return Original(model, tokenizer, pipeline, recipe)


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
