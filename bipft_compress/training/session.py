"""One training from its first step to its last, or from where it stopped."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow
import pyarrow.compute
from accelerate import PartialState
from accelerate.utils import set_seed
from rich.console import Console
from transformers import TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from bipft_compress.errors import TrainingError
from bipft_compress.files import differences, read_json, storage_faults, write_atomically
from bipft_compress.training.collator import Share
from bipft_compress.training.distillation import Distillation
from bipft_compress.training.progress import TrainingProgress
from bipft_compress.training.trackers import write_events_to
from bipft_compress.training.trainer import (
    DistillationTrainer,
    check_complete,
    last_checkpoint,
)
from bipft_compress.training.workspace import RUN

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger("bipft_compress")

_ROWS = 10_000
"""Examples that are hashed at a time."""


def run_training(
    distillation: Distillation,
    args: TrainingArguments,
    dataset: Dataset,
    collator: Callable[[list[dict[str, Any]]], Any],
    *,
    run: Mapping[str, Any],
    relative: bool = False,
    resume: bool = False,
    logs: Path | None = None,
    console: Console | None = None,
) -> list[dict[str, Any]]:
    """Train the student of `distillation` in place.

    Of several processes (accelerate launch, torchrun) each has its rows of every batch, and the
    losses are those of one process.

    Without `resume`, what lies in the arguments' directory is removed first.

    Args:
        distillation: the loss.
        args: see `training_arguments`.
        dataset: examples, with their ``length`` in tokens.
        collator: from examples to a batch.
        run: what a resumed training must have in common with the one it goes on from; of JSON.
            The examples are added to it.
        relative: learning rates are relative to the size of each tensor: see `relative_rates`.
        resume: go on from the newest checkpoint in the arguments' directory; where none was
            complete yet, from the beginning.
        logs: directory for TensorBoard's event files, where the arguments ask for them; below the
            arguments' directory if None.
        console: for a progress bar.

    Returns:
        The logged points: step, tokens, loss, its terms, learning rate.

    Raises:
        TrainingError: nothing to resume from, another run, or a checkpoint that is damaged; or a
            loss that is not a number.
        OutputError: the disk is full.
    """
    assert args.output_dir is not None
    directory = Path(args.output_dir)
    processes = PartialState()
    identity = dict(run) | {"data": examples_digest(dataset)}
    start = None
    if resume:
        check_same_run(directory, identity)
        with processes.main_process_first():
            start = last_checkpoint(directory)
        if start is None:
            logger.info("no checkpoint was complete yet: training begins anew")
        else:
            check_complete(start, processes)
    elif processes.is_main_process:
        begin_run(directory, identity)
    processes.wait_for_everyone()
    progress = TrainingProgress(console or Console(quiet=True))
    several = processes.num_processes > 1
    if several:
        collator = Share(collator, processes.num_processes, processes.process_index)
    trainer = DistillationTrainer(
        distillation,
        relative=relative,
        args=args,
        train_dataset=dataset,
        data_collator=collator,
        callbacks=[progress],
    )
    for ready_made in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(ready_made)
    if several:
        # Or dropout would draw the same for the rows of every process.
        set_seed(args.seed, device_specific=True)
    write_events_to(trainer, logs or directory / "runs", resume=resume)
    try:
        with storage_faults(directory):
            trainer.train(resume_from_checkpoint=str(start) if start else None)
    finally:
        progress.close()
    distillation.student.eval()
    return [_point(entry) for entry in trainer.state.log_history if "loss" in entry]


def begin_run(directory: Path, identity: Mapping[str, Any]) -> None:
    """Empty `directory`, and keep there what a resumed training must have in common with this."""
    shutil.rmtree(directory, ignore_errors=True)
    write_atomically(directory / RUN, json.dumps(identity))


def check_same_run(directory: Path, identity: Mapping[str, Any]) -> None:
    """Refuse to go on with a training that was begun otherwise.

    Raises:
        TrainingError: there is none, or something else went into it.
    """
    if not (directory / RUN).is_file():
        raise TrainingError(
            f"There is nothing to resume in {directory}: run without --resume to start."
        )
    other = differences(read_json(directory / RUN), identity)
    if other:
        raise TrainingError(
            f"The unfinished run in {directory} began with another {', '.join(other)}: resume with "
            "what it began with, or start again with --overwrite."
        )


def examples_digest(dataset: Dataset) -> str:
    """Hexadecimal SHA-256 of all examples, however they lie in memory or on disk."""
    digest = hashlib.sha256()
    for rows in dataset.with_format("arrow").iter(_ROWS):
        for name in sorted(rows.column_names):
            digest.update(f"{name} {rows.schema.field(name).type}\n".encode())
            _add(digest, rows.column(name).combine_chunks())
    return digest.hexdigest()


def _add(digest: hashlib._Hash, column: pyarrow.Array) -> None:
    while pyarrow.types.is_list(column.type) or pyarrow.types.is_large_list(column.type):
        digest.update(pyarrow.compute.list_value_length(column).to_numpy(False).tobytes())
        column = column.flatten()
    numbers = pyarrow.types.is_integer(column.type) or pyarrow.types.is_floating(column.type)
    if numbers:
        digest.update(column.to_numpy(False).tobytes())
    else:
        digest.update(json.dumps(column.to_pylist()).encode())


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
