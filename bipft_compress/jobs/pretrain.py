"""The second job: a binary checkpoint in, a better one out; through BiT's schedule if asked to."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from rich.console import Console

from bipft_compress import checkpoint, loading
from bipft_compress.checkpoint.record import RECORD, Record
from bipft_compress.device import AUTO, choose_device, join_processes
from bipft_compress.families import describe
from bipft_compress.files import atomic_directory, check_output
from bipft_compress.fitting.calibration import calibration_text, first_tokens
from bipft_compress.fitting.precision import change_precision
from bipft_compress.fitting.readout import fit_readout
from bipft_compress.jobs.identity import corpus_identity, training_identity
from bipft_compress.jobs.original import read_teacher, telling_of_teacher
from bipft_compress.provenance import provenance
from bipft_compress.recipe import Recipe
from bipft_compress.storage.plan import round_to_stored
from bipft_compress.structure.knowledge import Knowledge
from bipft_compress.training.pretraining import pretrain_model
from bipft_compress.training.session import begin_run, check_same_run
from bipft_compress.training.trackers import check_trackers, logs_beside
from bipft_compress.training.workspace import claim_training, unfinished

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def pretrain(
    directory: str | Path,
    corpus: str | Path,
    out: str | Path,
    *,
    recipe: Recipe | None = None,
    teacher: str | Path | None = None,
    steps: int | None = None,
    resume: bool = False,
    device: str = AUTO,
    logs: Path | None = None,
    overwrite: bool = False,
    console: Console | None = None,
) -> Record:
    """Continue the pretraining of a binary checkpoint and write the result.

    Args:
        directory: a binary checkpoint, from `compress` or from here; or its hub name, also as
            ``name@revision``.
        corpus: text; see `read_documents`.
        out: a new directory; training checkpoints lie beside it until the end.
        recipe: whose text, objective, schedule and training sections to use; the checkpoint's own
            if None.
        teacher: the full-precision original, if it has moved; or a binary checkpoint.
        steps: optimiser steps of the whole schedule, instead of the recipe's.
        resume, device, console: see `pretrain_model`.
        logs: for TensorBoard's event files; beside `out` if None.
        overwrite: replace what is in `out`.

    Returns:
        The record of the new checkpoint.

    Raises:
        UserError: see `pretrain_model`, and `checkpoint.load_trainable`.
    """
    target = Path(out)
    inputs = [directory, corpus, teacher]
    with claim_training(target, resume=resume, overwrite=overwrite, inputs=inputs) as work:
        join_processes(choose_device(device))
        directory = checkpoint.local_directory(directory)
        record = Record.read(directory)
        guide = teacher or record.teacher
        check_output(target, True, [guide])
        chosen = recipe or record.recipe
        check_trackers(chosen.training)  # before a model is loaded
        logs = logs or logs_beside(target)
        with telling_of_teacher(teacher):
            identity = training_identity(directory, guide)
        identity |= {"corpus": corpus_identity(corpus)}
        if chosen.schedule:
            _pretrain_in_stages(
                directory, corpus, work, chosen, identity, teacher=teacher, steps=steps,
                resume=resume, device=device, logs=logs, console=console,
            )  # fmt: skip
            if PartialState().is_main_process:
                with atomic_directory(target, overwrite) as result:
                    shutil.copytree(_stage(work, len(chosen.schedule)), result, dirs_exist_ok=True)
            PartialState().wait_for_everyone()
            return Record.read(target)
        student, tokenizer, record = checkpoint.load_trainable(directory)
        original = read_teacher(guide, record)
        points = pretrain_model(
            student,
            original,
            tokenizer,
            corpus,
            chosen,
            work,
            steps=steps,
            resume=resume,
            device=device,
            logs=logs,
            console=console,
            identity=identity,
            pool=loading.pool_of(record.pipeline, directory),
        )
        kept = ("activations", "embeddings", "kept", "estimators", "readout", "initialisation")
        shown = chosen.model_copy(update={name: getattr(record.recipe, name) for name in kept})
        record.recipe = shown
        record.knowledge = _finish(student, original, tokenizer, shown, corpus)
        record.add_training(points)
        record.provenance = provenance(record.provenance, "pretrain")
        # Of several processes (accelerate launch) one writes, and the others wait for it.
        if PartialState().is_main_process:
            checkpoint.save(target, student, tokenizer, record, overwrite)
    return record


def _finish(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    corpus: str | Path,
) -> Knowledge:
    """Fit the readout to what training made, and round all to what a packed artefact stores."""
    encoder, tokens = describe(student), recipe.readout.tokens
    round_to_stored(student, encoder, recipe)
    # The words are trained at the start alone: no text is read for them.
    read = recipe.with_words_as_coded()
    text = calibration_text(tokenizer, read, corpus, student, frequency_tokens=0)
    texts = first_tokens(text.readout, tokens)
    knowledge = fit_readout(student.eval(), teacher.eval(), encoder, texts, recipe)
    round_to_stored(student, encoder, recipe)
    return knowledge


def _stage(work: Path, number: int) -> Path:
    """Where the result of a stage lies until the last one is done."""
    return work / f"stage-{number}"


def _pretrain_in_stages(
    directory: str | Path,
    corpus: str | Path,
    work: Path,
    recipe: Recipe,
    identity: dict[str, Any],
    *,
    teacher: str | Path | None,
    steps: int | None,
    resume: bool,
    device: str,
    logs: Path,
    console: Console | None,
) -> None:
    """Each stage's student is the next one's teacher and start (BiT, Liu et al. 2022, section 4).

    Complete stages are kept, so that a resumed run goes on in the one that was cut short.
    """
    run = identity | {"recipe": recipe.model_dump(mode="json"), "steps": steps}
    if resume:
        check_same_run(work, run)
    elif PartialState().is_main_process:
        begin_run(work, run)
    PartialState().wait_for_everyone()
    start, guide = Path(directory), teacher
    for number, stage in enumerate(_stages(recipe, steps)):
        result = _stage(work, number)
        if number:
            guide = _stage(work, number - 1)
            start = work / f"start-{number}"
            _write_start(guide, start, stage)
        if not (result / RECORD).is_file():
            pretrain(
                start,
                corpus,
                result,
                recipe=stage,
                teacher=guide,
                resume=unfinished(result),
                device=device,
                logs=logs,
                console=console,
            )


def _stages(recipe: Recipe, steps: int | None) -> Iterator[Recipe]:
    """A recipe without a schedule for each stage, with its share of the training."""
    share = 1 - sum(stage.share for stage in recipe.schedule)
    for number in itertools.count():
        # Another seed, or every stage would begin with the same text.
        training = recipe.training | {"seed": recipe.training.get("seed", 42) + number}
        total = steps or training.get("max_steps", -1)
        if total > 0:
            training["max_steps"] = max(1, round(total * share))
        else:
            training["num_train_epochs"] = training.get("num_train_epochs", 3) * share
        yield recipe.model_copy(update={"training": training, "schedule": ()})
        if not recipe.schedule:
            return
        share = recipe.schedule[0].share
        recipe = recipe.next_stage()


def _write_start(before: Path, start: Path, stage: Recipe) -> None:
    """What a stage begins with: the result of the one before, at this stage's precision."""
    if PartialState().is_main_process and not (start / RECORD).is_file():
        student, tokenizer, record = checkpoint.load_trainable(before)
        change_precision(student, describe(student), stage.activations)
        record.recipe = record.recipe.model_copy(update={"activations": stage.activations})
        checkpoint.save(start, student, tokenizer, record)
    PartialState().wait_for_everyone()
