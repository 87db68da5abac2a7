"""One training from its first step to its last, or from where it stopped."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from rich.console import Console
from transformers import TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from bipft_compress.errors import TrainingError
from bipft_compress.files import read_json, storage_faults, write_atomically
from bipft_compress.training.distillation import Distillation
from bipft_compress.training.progress import TrainingProgress
from bipft_compress.training.trainer import DistillationTrainer, last_checkpoint

if TYPE_CHECKING:
    from datasets import Dataset

RUN = "run.json"
"""Beside training checkpoints: what a resumed training must have in common with the one it goes on
from."""


def run_training(
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
