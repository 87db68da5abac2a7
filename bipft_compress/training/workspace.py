"""Where the checkpoints of an unfinished training lie."""

from __future__ import annotations

from pathlib import Path

from bipft_compress.checkpoint.record import RECORD, WEIGHTS
from bipft_compress.errors import OutputError, TrainingError
from bipft_compress.files import check_output
from bipft_compress.training.trainer import COMPLETE

WORK = "training"
"""Ending of the hidden directory that keeps training checkpoints until the result is written."""


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
