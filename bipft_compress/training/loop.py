"""What every training has in common: arguments, where it works, the loop itself, its log."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from rich.console import Console
from transformers import TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from bipft_compress.errors import OutputError, RecipeError, TrainingError
from bipft_compress.files import check_output, read_json, storage_faults, write_atomically
from bipft_compress.record import RECORD, WEIGHTS
from bipft_compress.training.distillation import Distillation
from bipft_compress.training.progress import TrainingProgress
from bipft_compress.training.trainer import COMPLETE, DistillationTrainer, last_checkpoint

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

WORK = "training"
"""Ending of the hidden directory that keeps training checkpoints until the result is written."""

RUN = "run.json"
"""In it: what a resumed training must have in common with the one it goes on from."""


def training_arguments(
    chosen: Mapping[str, Any], directory: Path, steps: int | None
) -> TrainingArguments:
    """A recipe's ``training:`` section as transformers' own arguments.

    Args:
        chosen: the section.
        directory: for training checkpoints.
        steps: optimiser steps, instead of the section's.

    Raises:
        RecipeError: an argument that `TrainingArguments` does not know, or refuses.
    """
    values: dict[str, Any] = {
        "report_to": "none",
        "save_total_limit": 2,
        "include_num_input_tokens_seen": "non_padding",
        "optim": "adamw_torch_fused",
        "dataloader_pin_memory": torch.cuda.is_available(),
        **chosen,
        "output_dir": str(directory),
        # Columns are ours (see the collators), not the forward method's arguments.
        "remove_unused_columns": False,
        # A NaN is a fault to stop at, not one to smooth over in the log.
        "logging_nan_inf_filter": False,
    }
    if steps is not None:
        values["max_steps"] = steps
    try:
        return TrainingArguments(**values)
    except (TypeError, ValueError) as error:
        reason = str(error).replace("TrainingArguments.__init__() ", "")
        raise RecipeError(f"The recipe's training section is not valid: {reason}.") from None


def _work(target: Path) -> Path:
    return target.parent / f".{target.name}.{WORK}"


def unfinished(target: Path) -> bool:
    """Whether training for `target` was cut short and left something to resume."""
    work = _work(target)
    return any(next(work.rglob(name), None) for name in (COMPLETE, RECORD))


def work_directory(target: Path, *, resume: bool, overwrite: bool) -> Path:
    """Where training checkpoints for `target` lie; nothing is changed there yet.

    Raises:
        OutputError: `target` is there already, or an unfinished run for it is.
        TrainingError: nothing to resume.
    """
    work = _work(target)
    if not resume:
        check_output(target, overwrite)
        if unfinished(target) and not overwrite:
            raise OutputError(
                f"An unfinished run for {target} is there: go on with --resume, or start again "
                "with --overwrite."
            )
    elif (target / WEIGHTS).is_file():
        raise OutputError(f"{target} is already complete: there is nothing to resume.")
    elif not work.is_dir():
        raise TrainingError(
            f"There is nothing to resume for {target}: run without --resume to start."
        )
    return work


def without_dropout(model: PreTrainedModel) -> None:
    """Distillation compares exact outputs, and binarization is noise enough."""
    for module in model.modules():
        if type(module).__name__ == "Dropout":
            module.p = 0.0  # type: ignore[assignment]


def fit(
    distillation: Distillation,
    args: TrainingArguments,
    dataset: Dataset,
    collator: Callable[[list[dict[str, Any]]], Any],
    *,
    run: Mapping[str, Any],
    resume: bool = False,
    console: Console | None = None,
) -> list[dict[str, Any]]:
    """Train the student of `distillation` in place.

    Without `resume`, what lies in the arguments' directory is removed first.

    Args:
        distillation: the loss.
        args: see `training_arguments`.
        dataset: examples, with their ``length`` in tokens.
        collator: from examples to a batch.
        run: what a resumed training must have in common with the one it goes on from; of JSON.
        resume: go on from the newest checkpoint in the arguments' directory.
        console: for a progress bar.

    Returns:
        The logged points: step, tokens, loss, its terms, learning rate.

    Raises:
        TrainingError: nothing to resume from, or another run; or a loss that is not a number.
        OutputError: the disk is full.
    """
    assert args.output_dir is not None
    directory = Path(args.output_dir)
    start = last_checkpoint(directory) if resume else None
    if resume and start is None:
        raise TrainingError(
            f"There is nothing to resume in {directory}: run without --resume to start."
        )
    processes = PartialState()
    if start is not None:
        _check_same(run, directory)
    elif processes.is_main_process:
        shutil.rmtree(directory, ignore_errors=True)
        write_atomically(directory / RUN, json.dumps(run))
    processes.wait_for_everyone()
    progress = TrainingProgress(console or Console(quiet=True))
    trainer = DistillationTrainer(
        distillation, args=args, train_dataset=dataset, data_collator=collator, callbacks=[progress]
    )
    for ready_made in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(ready_made)
    try:
        with storage_faults(directory):
            trainer.train(resume_from_checkpoint=str(start) if start else None)
    finally:
        progress.close()
    distillation.student.eval()
    return [_point(entry) for entry in trainer.state.log_history if "loss" in entry]


def _check_same(run: Mapping[str, Any], directory: Path) -> None:
    before, now = read_json(directory / RUN), json.loads(json.dumps(run))
    other = sorted(key for key in now if now[key] != before.get(key))
    if other:
        raise TrainingError(
            f"The unfinished run in {directory} began with another {other[0]}: resume with what it "
            "began with, or start again with --overwrite."
        )


def _point(entry: dict[str, Any]) -> dict[str, Any]:
    known = {"loss", "step", "learning_rate", "epoch", "grad_norm", "num_input_tokens_seen"}
    terms = {
        name: value
        for name, value in entry.items()
        if name not in known and not name.startswith("train_")
    }
    return {
        "step": entry["step"],
        "tokens": int(entry.get("num_input_tokens_seen", 0)),
        "loss": float(entry["loss"]),
        "terms": terms,
        "learning_rate": float(entry.get("learning_rate", math.nan)),
    }
