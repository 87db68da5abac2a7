"""Where the checkpoints of an unfinished training lie, and who may write there."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import PartialState

from bipft_compress.checkpoint.record import RECORD
from bipft_compress.errors import OutputError, Stopped, TrainingError
from bipft_compress.files import claim_together, hidden_path, is_vacant, real_path
from bipft_compress.training.trainer import COMPLETE

RUN = "run.json"
"""Beside training checkpoints: what a resumed training must have in common with the one it goes on
from."""

_ENDING = "training"
"""Of the hidden directory that keeps training checkpoints until the result is written."""


def unfinished(target: Path) -> bool:
    """Whether training for `target` was cut short and left something to resume."""
    work = hidden_path(real_path(target), _ENDING)
    return any(next(work.rglob(name), None) for name in (COMPLETE, RECORD))


def discard_unfinished(target: Path) -> None:
    """Remove what training for `target` left, whose result is there."""
    shutil.rmtree(hidden_path(real_path(target), _ENDING), ignore_errors=True)


@contextmanager
def claim_training(
    target: Path, *, resume: bool, overwrite: bool, inputs: Iterable[str | Path | None]
) -> Iterator[Path]:
    """Hold the output of a training from start to end; see `claim_together`.

    Yields:
        Where training checkpoints for `target` lie; nothing is changed there yet, and it is removed
        once all is done.

    Raises:
        OutputError: see `check_output`; `target` is complete, an unfinished run for it is there, or
            another run writes it.
        TrainingError: nothing to resume.
    """
    work = hidden_path(real_path(target), _ENDING)
    replace = overwrite or (resume and is_vacant(real_path(target)))
    if resume and not replace:
        raise OutputError(
            f"{target} is already complete: there is nothing to resume. To replace it, pass "
            "--overwrite too."
        )
    if resume and not (work / RUN).is_file():
        raise TrainingError(
            f"There is nothing to resume for {target}: run without --resume to start."
        )
    with claim_together(target, replace, inputs):
        if not resume and not overwrite and unfinished(target):
            raise OutputError(
                f"An unfinished run for {target} is there: go on with --resume, or start again "
                "with --overwrite."
            )
        try:
            yield work
        except Stopped as stop:
            stop.resumable = (work / RUN).is_file()
            raise
        if PartialState().is_main_process:
            shutil.rmtree(work, ignore_errors=True)
        PartialState().wait_for_everyone()
