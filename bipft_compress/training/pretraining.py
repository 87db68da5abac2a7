"""Continued binary pretraining of a model against its original."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from transformers import TrainingArguments, set_seed

from bipft_compress.device import AUTO
from bipft_compress.errors import RecipeError
from bipft_compress.families import describe, get_module, head_parameters, max_sequence_length
from bipft_compress.nn.pooling import Pool, mean_pool
from bipft_compress.recipe import Recipe
from bipft_compress.text.dataset import build_dataset
from bipft_compress.training.arguments import training_arguments, without_dropout
from bipft_compress.training.collator import PretrainingCollator
from bipft_compress.training.distillation import Distillation
from bipft_compress.training.session import run_training

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def pretrain_model(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: str | Path,
    recipe: Recipe,
    directory: Path,
    *,
    steps: int | None = None,
    resume: bool = False,
    device: str = AUTO,
    logs: Path | None = None,
    console: Console | None = None,
    identity: Mapping[str, Any] | None = None,
    pool: Pool = mean_pool,
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
        device: see `choose_device`.
        logs: see `run_training`.
        console: for a progress bar.
        identity: what else a resumed training must have in common with the one it goes on from,
            such as checksums of the checkpoints; of JSON.
        pool: see `Distillation`.

    Returns:
        The logged points: step, tokens, loss, its terms, learning rate.

    Raises:
        RecipeError: the recipe does not fit the model, or its training section is not valid.
        CorpusError: the text is missing, empty or not text.
        TrainingError: nothing to resume from, or another run; or a loss that is not a number.
        OutputError: the disk is full.
    """
    args, distillation, collator = prepare(
        student, teacher, tokenizer, recipe, directory, steps=steps, device=device, pool=pool
    )
    batch = args.train_batch_size * args.gradient_accumulation_steps
    # No more text is read than the steps can use.
    limit = args.max_steps * batch if args.max_steps > 0 else None
    with args.main_process_first():
        dataset = build_dataset(corpus, tokenizer, recipe.text, limit=limit)
    sections = ("text", "objective", "learning_rates", "training")
    chosen = recipe.model_dump(
        mode="json", include={**dict.fromkeys(sections, True), "words": {"frozen"}}
    )
    run = {**(identity or {}), **chosen, "steps": args.max_steps}
    return run_training(
        distillation,
        args,
        dataset,
        collator,
        run=run,
        relative=recipe.learning_rates == "relative",
        resume=resume,
        logs=logs,
        console=console,
    )


class Prepared(NamedTuple):
    """All that a pretraining needs beside its text."""

    args: TrainingArguments
    distillation: Distillation
    collator: PretrainingCollator


def prepare(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    directory: Path,
    *,
    steps: int | None,
    device: str,
    pool: Pool = mean_pool,
) -> Prepared:
    """What `pretrain_model` trains with; nothing is written.

    Raises:
        RecipeError: see `pretrain_model`.
    """
    args = training_arguments(recipe.training, directory, steps, device)
    _check_length(recipe, student)
    set_seed(args.seed)
    for part in (student, teacher):
        without_dropout(part)
    objective = recipe.objective
    distillation = Distillation(student, teacher, describe(student), objective, pool)
    _freeze(student, recipe)
    collator = PretrainingCollator(
        tokenizer,
        masking=objective.masking if objective.mlm else 0.0,
        pairs=bool(objective.nsp),
        seed=args.seed,
    )
    return Prepared(args, distillation, collator)


def _check_length(recipe: Recipe, model: PreTrainedModel) -> None:
    # A next-sentence pair has one separator more than the sequence it was cut from.
    largest = max_sequence_length(model.config) - bool(recipe.objective.nsp)
    if recipe.text.sequence_length > largest:
        raise RecipeError(
            f"text.sequence_length = {recipe.text.sequence_length} is more than the "
            f"{largest} tokens this model has positions for."
        )


def _freeze(model: PreTrainedModel, recipe: Recipe) -> None:
    """Leave alone what the recipe says, and what no loss term reaches.

    Several processes would wait for the gradients of the latter.
    """
    encoder = describe(model)
    if recipe.words.frozen:
        get_module(model, encoder.word_embeddings).requires_grad_(False)
    if not {"mlm", "nsp", "logits"} & recipe.objective.weights().keys():
        for name in head_parameters(model):
            model.get_parameter(name).requires_grad_(False)
        if encoder.pooler is not None:
            get_module(model, encoder.pooler).requires_grad_(False)
    if encoder.readout is not None:
        # Its own gradient, at the rate of latent weights, ruins it: it is fitted again at the end.
        get_module(model, encoder.readout).requires_grad_(False)
    if recipe.embeddings.code == "full":
        for path in (encoder.word_embeddings, *encoder.embeddings_kept):
            get_module(model, path).requires_grad_(False)
