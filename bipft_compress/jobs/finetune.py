"""Fine-tuning: a checkpoint, binary or not, and a labelled task in; a classifier out."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from rich.console import Console
from transformers import TrainingArguments, set_seed

from bipft_compress.device import AUTO
from bipft_compress.errors import CheckpointError
from bipft_compress.families import describe
from bipft_compress.provenance import provenance
from bipft_compress.recipe import Finetuning, Recipe, TaskObjective
from bipft_compress.storage.plan import round_to_stored
from bipft_compress.structure.heads import take_head, with_classifier, without_head
from bipft_compress.structure.pooling import pooling_of
from bipft_compress.structure.swap import Decision
from bipft_compress.tasks.chosen import ChosenTask
from bipft_compress.tasks.classify import score, scores, tokenize
from bipft_compress.tasks.labelled import Task
from bipft_compress.training import lora
from bipft_compress.training.arguments import training_arguments, without_dropout
from bipft_compress.training.collator import FinetuningCollator
from bipft_compress.training.distillation import Distillation
from bipft_compress.training.finetuned import (
    Classifier,
    read_classifier,
    read_trainable,
    save_classifier,
)
from bipft_compress.training.session import run_training
from bipft_compress.training.workspace import work_directory

DEFAULTS: dict[str, Any] = {
    "num_train_epochs": 3,
    "per_device_train_batch_size": 32,
    "learning_rate": 5e-4,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.1,
    "max_grad_norm": 1.0,
    "logging_steps": 0.02,
    "save_strategy": "steps",
    "save_steps": 0.1,
    "seed": 0,
}
"""What a recipe's ``finetuning.training`` does not say; 1-bit weights want a larger step."""


@dataclass(frozen=True)
class Finetuned:
    """What a fine-tuning came to."""

    metrics: dict[str, float]
    """Of the result on the task's dev split."""
    teacher_metrics: dict[str, float] | None
    trained_parameters: int
    adapter_bytes: int | None
    """Size of the adapter's file, with ``lora``."""


def finetune(
    directory: str | Path,
    chosen: ChosenTask,
    out: str | Path,
    *,
    teacher: str | Path | None = None,
    recipe: Recipe | None = None,
    steps: int | None = None,
    seed: int | None = None,
    rank: int | None = None,
    resume: bool = False,
    device: str = AUTO,
    overwrite: bool = False,
    console: Console | None = None,
) -> Finetuned:
    """Fine-tune a checkpoint on a task and write the result.

    A binary checkpoint gives a binary checkpoint, a full-precision one a Hugging Face checkpoint,
    each of the family's ForSequenceClassification class, or for similarity by cosine without a
    head; with `rank`, a PEFT adapter. A head starts as that of the teacher, where one is given.

    Args:
        directory: a binary checkpoint, or a full-precision one by directory or hub name; with
            `rank` also a packed artefact.
        chosen: the task and its data.
        out: a new directory; training checkpoints lie beside it until the end.
        teacher: a fine-tuned checkpoint with the same tokenizer to distil from, usually the
            full-precision one.
        recipe: whose finetuning section to use; the checkpoint's own, or the defaults, if None.
        steps: optimiser steps, instead of the recipe's epochs.
        seed: of head and data order, instead of the recipe's.
        rank: train LoRA adapters of this rank over the frozen model, and the head.
        resume: go on from the newest training checkpoint for `out`.
        device: see `choose_device`.
        overwrite: replace what is in `out`.
        console: for a progress bar.

    Raises:
        UserError: the checkpoint, the task, its data, the teacher, the recipe or the output
            directory is at fault.
    """
    target = Path(out)
    work = work_directory(target, resume=resume, overwrite=overwrite)
    start = read_trainable(directory, frozen=rank is not None)
    options = (recipe or start.recipe).finetuning
    args = _arguments(options, start, work, steps=steps, seed=seed, rank=rank, device=device)
    task = chosen.read()
    by_cosine = task.is_similarity and options.similarity == "cosine"
    original = None
    if teacher is not None:
        original = _read_teacher(teacher, task, start, options.objective, by_cosine)
    set_seed(args.seed)
    student, decisions = _student(start, task, by_cosine, options.pooling)
    model = student.model
    if student.record is not None or original is not None:
        without_dropout(model)
    encoder = describe(model)
    distillation = Distillation(
        model, None if original is None else original.model, encoder, options.objective
    )
    if distillation.teacher is not None and not by_cosine:
        take_head(model, distillation.teacher)
    adapted = None if rank is None else lora.add_adapters(model, rank)
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert task.train is not None
    with args.main_process_first():
        dataset = tokenize(
            student.tokenizer, task.train, model, options.sequence_length, apart=by_cosine
        )
    collator = FinetuningCollator(student.tokenizer)
    run = {
        "task": task.name, "finetuning": options.model_dump(), "steps": args.max_steps,
        "seed": args.seed, "lora": rank,
    }  # fmt: skip
    points = run_training(
        distillation, args, dataset, collator, run=run, resume=resume, console=console
    )
    recorded = student.record if adapted is None else None
    if recorded is not None:
        recorded.decisions = decisions
        recorded.add_training(points)
        recorded.recipe = recorded.recipe.model_copy(update={"finetuning": options})
        round_to_stored(model, encoder, recorded.recipe)
    ours = score(model, student.tokenizer, task, options.sequence_length)
    theirs = None
    if original is not None:
        theirs = score(original.model, original.tokenizer, task, options.sequence_length)
    origin = provenance(
        student.record.provenance if student.record else {},
        "finetune",
        task=task.name,
        data=str(chosen.data),
        teacher=None if teacher is None else str(teacher),
        seed=args.seed,
    )
    if recorded is not None:
        recorded.provenance = origin
        # What was measured before was measured on other weights.
        recorded.quality = scores(task, ours, theirs)
    facts = {
        "task": task.name, "metrics": ours, "provenance": origin,
        "pooling": None if by_cosine else pooling_of(model.config), "labels": student.labels,
    }  # fmt: skip
    # Of several processes (accelerate launch) one writes, and the others wait for it.
    processes = PartialState()
    if processes.is_main_process:
        save_classifier(
            target, student, facts, adapted=adapted, base=directory, overwrite=overwrite
        )
        shutil.rmtree(work, ignore_errors=True)
    processes.wait_for_everyone()
    size = None if adapted is None else (target / lora.WEIGHTS).stat().st_size
    return Finetuned(ours, theirs, trained, size)


def _arguments(
    options: Finetuning,
    start: Classifier,
    work: Path,
    *,
    steps: int | None,
    seed: int | None,
    rank: int | None,
    device: str,
) -> TrainingArguments:
    values = DEFAULTS | options.training
    if rank is not None:
        values["learning_rate"] = options.adapter_learning_rate
    elif start.record is None:
        values["learning_rate"] = options.full_precision_learning_rate
    if seed is not None:
        values["seed"] = seed
    return training_arguments(values, work, steps, device)


def _student(
    start: Classifier, task: Task, by_cosine: bool, pooling: str
) -> tuple[Classifier, list[Decision]]:
    """What is trained, with the head that the task wants, and the record's decisions about it."""
    recipe = start.record.recipe if start.record else None
    if by_cosine:
        model, decisions = without_head(start.model, recipe)
    else:
        model, decisions = with_classifier(start.model, task.labels, recipe, pooling)
    return Classifier(model, start.tokenizer, start.record, list(task.labels)), decisions


def _read_teacher(
    teacher: str | Path,
    task: Task,
    start: Classifier,
    objective: TaskObjective,
    by_cosine: bool,
) -> Classifier:
    """The teacher, after a check that the student can follow it."""
    read = read_classifier(teacher)
    read.check(task, teacher)
    if by_cosine == read.has_head:
        has, other = ("a", "head") if by_cosine else ("no", "cosine")
        raise CheckpointError(
            f"The teacher {teacher} has {has} head for similarity: set finetuning.similarity to "
            f"{other}, or give another."
        )
    if read.tokenizer.get_vocab() != start.tokenizer.get_vocab():
        raise CheckpointError(f"The teacher {teacher} has another vocabulary than the checkpoint.")
    inner = objective.weights().keys() - {"task", "logits"}
    sizes = ("model_type", "num_hidden_layers", "hidden_size", "num_attention_heads")
    theirs, ours = (
        [getattr(model.config, size) for size in sizes] for model in (read.model, start.model)
    )
    if inner and theirs != ours:
        keys = ", ".join(f"finetuning.objective.{name}" for name in sorted(inner))
        raise CheckpointError(
            f"The teacher {teacher} has other layers than the checkpoint: set {keys} to 0, or "
            "give one of the same shape."
        )
    return read
