"""A pretraining up to its first step: whether it would run, how long it is, what it needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bipft_compress import checkpoint
from bipft_compress.checkpoint.record import Record
from bipft_compress.device import AUTO, choose_device
from bipft_compress.errors import CorpusError, RecipeError
from bipft_compress.files import check_output
from bipft_compress.jobs.identity import training_identity
from bipft_compress.jobs.original import read_teacher
from bipft_compress.loading import pool_of
from bipft_compress.processes import process_count
from bipft_compress.recipe import Recipe
from bipft_compress.text.corpus import read_documents
from bipft_compress.text.sequences import token_sequences
from bipft_compress.training.distillation import Distillation
from bipft_compress.training.pretraining import prepare

_ROWS = 2
"""Sequences that activations are counted on."""


@dataclass(frozen=True)
class DryRun:
    """What a pretraining would come to. Bytes are those of one process."""

    steps: int | None
    """Optimiser steps; None where the recipe counts epochs."""
    processes: int
    batch: int
    """Sequences of a step, of all processes together."""
    batch_per_process: int
    """Sequences that a process takes at a time."""
    tokens_per_step: int
    """By the mean length of the first batch's sequences."""
    state_bytes: int
    """Weights of student and teacher, gradients and AdamW's two moments."""
    activation_bytes: int
    """Kept for the backward pass, of sequences of the recipe's full length."""

    @property
    def tokens(self) -> int | None:
        """Of all steps."""
        return None if self.steps is None else self.steps * self.tokens_per_step


def dry_run(
    directory: str | Path,
    corpus: str | Path,
    out: str | Path,
    *,
    recipe: Recipe | None = None,
    teacher: str | Path | None = None,
    steps: int | None = None,
    processes: int | None = None,
    device: str = AUTO,
    overwrite: bool = False,
) -> DryRun:
    """Do all that `pretrain` does before its first step, and the loss and gradient of two rows.

    Nothing is written, nor cached.

    Args:
        directory, corpus, out, recipe, teacher, steps, device, overwrite: see `pretrain`; of a
            schedule of precisions the first is tried.
        processes: count for so many, instead of those that this was started in.

    Raises:
        UserError: what `pretrain` would refuse.
    """
    check_output(out, overwrite, [directory, corpus, teacher])
    directory = checkpoint.local_directory(directory)
    record = Record.read(directory)
    guide, chosen = teacher or record.teacher, recipe or record.recipe
    training_identity(directory, guide)
    student, tokenizer, record = checkpoint.load_trainable(directory)
    args, distillation, collator = prepare(
        student, read_teacher(guide, record), tokenizer, chosen, Path(out),
        steps=steps, device=device, pool=pool_of(record.pipeline, directory),
    )  # fmt: skip
    shared = processes or process_count()
    share, left = divmod(args.train_batch_size, shared)
    if left:
        raise RecipeError(
            f"training.per_device_train_batch_size = {args.train_batch_size} is the batch of all "
            f"processes, and {shared} cannot share it evenly: set it to a multiple of {shared}."
        )
    batch = args.train_batch_size * args.gradient_accumulation_steps
    documents = read_documents(corpus)
    sequences = list(token_sequences(documents, tokenizer, chosen.text, limit=batch))
    if not sequences:
        raise CorpusError(
            f"The corpus {corpus} holds no sequence of at least {chosen.text.shortest} tokens; "
            "give more text or lower text.shortest in the recipe."
        )
    longest = sorted(sequences, key=len)[-_ROWS:]
    inputs = collator([{"input_ids": sequence} for sequence in longest])
    kept = _activation_bytes(distillation, inputs, choose_device(device))
    a_token = kept / inputs["input_ids"].numel()
    mean = sum(map(len, sequences)) / len(sequences)
    return DryRun(
        steps=args.max_steps if args.max_steps > 0 else None,
        processes=shared,
        batch=batch,
        batch_per_process=share,
        tokens_per_step=round(batch * mean),
        state_bytes=_state_bytes(distillation, shared),
        activation_bytes=round(a_token * share * chosen.text.sequence_length),
    )


def _activation_bytes(
    distillation: Distillation, inputs: dict[str, Tensor], device: torch.device
) -> int:
    """What autograd keeps of the loss of `inputs`, parameters not counted."""
    models = [one for one in (distillation.student, distillation.teacher) if one is not None]
    for model in models:
        nn.Module.to(model, device)
    fixed = {part.data_ptr() for model in models for part in model.state_dict().values()}
    sizes: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        if x.data_ptr() not in fixed:
            sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    batch = {name: values.to(device) for name, values in inputs.items()}
    distillation.student.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, _same):
        loss = distillation.total(distillation(distillation.student, batch))
    loss.backward()
    return sum(sizes.values())


def _same(x: Any) -> Any:
    return x


def _state_bytes(distillation: Distillation, processes: int) -> int:
    def size(model: nn.Module | None, trained: bool) -> int:
        parts = () if model is None else model.parameters()
        return sum(part.nbytes for part in parts if part.requires_grad == trained)

    student, teacher = distillation.student, distillation.teacher
    trained = size(student, True)
    # Weight, gradient, two moments; several processes exchange gradients through a copy of them.
    copies = 4 + (processes > 1)
    return copies * trained + size(student, False) + size(teacher, False)
