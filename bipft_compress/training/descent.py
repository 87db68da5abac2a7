"""Before fine-tuning as a whole: each layer alone follows the fine-tuned teacher's.

The student comes from the original and its teacher has moved on. A gradient through every binary
layer is a noisy way to tell a layer where to; its teacher's own output, for the student's own
input, is a sharp one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from datasets import Dataset
from torch import Tensor

from bipft_compress.convert.layerwise import LayerwiseRunner
from bipft_compress.convert.reconstruct import reconstruct_layer
from bipft_compress.families import Encoder
from bipft_compress.recipe import Finetuning
from bipft_compress.text.batches import of_equal_length

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH_TOKENS = 2048


def follow_teacher(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    encoder: Encoder,
    examples: Dataset,
    options: Finetuning,
    *,
    most: int,
    seed: int,
    progress: Callable[[int, int], None] = lambda number, total: None,
) -> None:
    """Train each layer of `student`, in place, on the teacher's output of that layer.

    Args:
        student: binary, without dropout.
        teacher: fine-tuned, of the same shape.
        encoder: parts of both.
        examples: tokenized, see `tasks.classify.tokenize`.
        options: its ``layer_epochs``, ``layer_learning_rate`` and ``layer_tokens``.
        most: examples to use; fewer where ``layer_tokens`` ends first.
        seed: of which.
        progress: called with a layer's number and their count.
    """
    batches = _batches(examples, most, options.layer_tokens, seed)
    student.eval()
    teacher.eval()
    ours = LayerwiseRunner(student, encoder, batches)
    theirs = LayerwiseRunner(teacher, encoder, batches)
    for number in range(1, len(encoder.layers) + 1):
        theirs.advance()
        reconstruct_layer(ours, theirs, options.layer_epochs, options.layer_learning_rate)
        ours.advance()
        progress(number, len(encoder.layers))


def _batches(examples: Dataset, most: int, tokens: int, seed: int) -> list[dict[str, Tensor]]:
    """Inputs of examples drawn at random, without padding."""
    inputs: list[dict[str, list[int]]] = []
    seen = 0
    for example in examples.shuffle(seed=seed).select(range(min(most, len(examples)))):
        names = [name for name in ("input_ids", "token_type_ids") if name in example]
        inputs.append({name: example[name] for name in names})
        seen += example["length"]
        if seen >= tokens:
            break
    return [
        {name: torch.tensor([row[name] for row in batch]) for name in batch[0]}
        for batch in of_equal_length(inputs, lambda row: len(row["input_ids"]), BATCH_TOKENS)
    ]
