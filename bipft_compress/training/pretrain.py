"""Continued binary pretraining: a binary checkpoint in, a better one out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from rich.console import Console
from transformers import set_seed

from bipft_compress import checkpoint
from bipft_compress.convert.storage import round_to_stored
from bipft_compress.errors import RecipeError
from bipft_compress.families import describe, max_sequence_length
from bipft_compress.provenance import provenance
from bipft_compress.recipe import Recipe
from bipft_compress.record import Record
from bipft_compress.text.sequences import build_dataset
from bipft_compress.training.collator import PretrainingCollator
from bipft_compress.training.distillation import Distillation
from bipft_compress.training.loop import fit, training_arguments, without_dropout, work_directory

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def train(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: str | Path,
    recipe: Recipe,
    directory: Path,
    *,
    steps: int | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> list[dict[str, Any]]:
    """Train `student` in place against `teacher`.

    Args:
        student: a binary model (see `compress`).
        teacher: its full-precision original.
        tokenizer: of both.
        corpus: text; see `read_documents`.
        recipe: its text, objective and training sections apply.
        directory: for training checkpoints.
        steps: optimiser steps, instead of the recipe's.
        resume: go on from the newest checkpoint in `directory`.
        console: for a progress bar.

    Returns:
        The logged points: step, tokens, loss, its terms, learning rate.

    Raises:
        RecipeError: the recipe does not fit the model, or its training section is not valid.
        CorpusError: the text is missing, empty or not text.
        TrainingError: nothing to resume from, or a loss that is not a number.
        OutputError: the disk is full.
    """
    args = training_arguments(recipe.training, directory, steps)
    _check_length(recipe, student)
    set_seed(args.seed)
    for part in (student, teacher):
        without_dropout(part)
    distillation = Distillation(student, teacher, describe(student), recipe.objective)
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    # No more text is read than the steps can use.
    limit = args.max_steps * batch if args.max_steps > 0 else None
    with args.main_process_first():
        dataset = build_dataset(corpus, tokenizer, recipe.text, limit=limit)
    objective = recipe.objective
    _freeze_unused(student, recipe)
    collator = PretrainingCollator(
        tokenizer,
        masking=objective.masking if objective.mlm else 0.0,
        pairs=bool(objective.nsp),
        seed=args.seed,
    )
    return fit(distillation, args, dataset, collator, resume=resume, console=console)


def _check_length(recipe: Recipe, model: PreTrainedModel) -> None:
    # A next-sentence pair has one separator more than the sequence it was cut from.
    largest = max_sequence_length(model.config) - bool(recipe.objective.nsp)
    if recipe.text.sequence_length > largest:
        raise RecipeError(
            f"text.sequence_length = {recipe.text.sequence_length} is more than the "
            f"{largest} tokens this model has positions for."
        )


def _freeze_unused(model: PreTrainedModel, recipe: Recipe) -> None:
    """Leave alone what no loss term reaches: several processes would wait for its gradients."""
    encoder = describe(model)
    heads = {"mlm", "nsp", "logits"} & recipe.objective.weights().keys()
    for name, parameter in model.named_parameters():
        pooler = encoder.pooler is not None and name.startswith(encoder.pooler)
        head = not name.startswith(model.base_model_prefix) and model.base_model is not model
        if (pooler or head) and not heads:
            parameter.requires_grad_(False)
    if recipe.embeddings.code == "full":
        for path in (encoder.word_embeddings, *encoder.embeddings_kept):
            model.get_submodule(path).requires_grad_(False)


def pretrain(
    directory: str | Path,
    corpus: str | Path,
    out: str | Path,
    *,
    recipe: Recipe | None = None,
    teacher: str | Path | None = None,
    steps: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> Record:
    """Continue the pretraining of a binary checkpoint and write the result.

    Args:
        directory: a binary checkpoint, from `compress` or from here.
        corpus: text; see `read_documents`.
        out: a new directory; training checkpoints stay in its ``training`` folder until the end.
        recipe: whose text, objective and training sections to use; the checkpoint's own if None.
        teacher: the full-precision original, if it has moved.
        steps, resume, console: see `train`.
        overwrite: replace what is in `out`.

    Returns:
        The record of the new checkpoint.

    Raises:
        UserError: see `train`, and `checkpoint.load`.
    """
    target = Path(out)
    work = work_directory(target, resume=resume, overwrite=overwrite)
    student, tokenizer, record = checkpoint.load(directory)
    chosen = recipe or record.recipe
    original, _ = checkpoint.load_pretrained(
        teacher or record.teacher, mlm_head=record.recipe.objective.fresh_mlm_head
    )
    points = train(
        student,
        original,
        tokenizer,
        corpus,
        chosen,
        work,
        steps=steps,
        resume=resume,
        console=console,
    )
    shown = chosen.model_copy(
        update={
            name: getattr(record.recipe, name)
            for name in ("activations", "embeddings", "kept", "estimators", "initialisation")
        }
    )
    record.recipe = shown
    round_to_stored(student, describe(student), shown)
    record.add_training(points)
    record.provenance = provenance(record.provenance, "pretrain")
    # Of several processes (accelerate launch) one writes, and the others wait for it.
    processes = PartialState()
    if processes.is_main_process:
        checkpoint.save(target, student, tokenizer, record, overwrite)
        shutil.rmtree(work, ignore_errors=True)
    processes.wait_for_everyone()
    return record
