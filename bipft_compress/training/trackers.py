"""Programs that draw a training as it runs, such as TensorBoard: `report_to` of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from transformers import Trainer
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    TensorBoardCallback,
    get_available_reporting_integrations,
)

from bipft_compress.errors import RecipeError, UserError

_UNCHECKED = {"flyte"}
"""Trackers of which transformers does not say whether they are installed."""


def check_trackers(chosen: Mapping[str, Any]) -> None:
    """Refuse a recipe's ``training:`` section that reports to what is not there.

    Raises:
        RecipeError: it names a tracker that transformers does not know.
        UserError: one that is not installed.
    """
    named = chosen.get("report_to") or "none"
    for name in [named] if isinstance(named, str) else named:
        if name in ("none", "all"):
            continue
        if name not in INTEGRATION_TO_CALLBACK:
            raise RecipeError(
                f"training.report_to names {name!r}, which transformers does not know: use one of "
                f"{', '.join(sorted(INTEGRATION_TO_CALLBACK))}."
            )
        if name not in {*get_available_reporting_integrations(), *_UNCHECKED}:
            raise UserError(
                f"The recipe's training.report_to names {name}, which is not installed: run "
                f"`pip install {name.replace('_', '-')}`, or leave report_to out."
            )


def logs_beside(target: Path) -> Path:
    """Where event files of a training for `target` lie: beside it, for they name the machine."""
    return target.with_name(f"{target.name}-runs")


def write_events_to(trainer: Trainer, directory: Path, *, resume: bool) -> None:
    """Have TensorBoard's callback, if there is one, write into `directory`.

    Each training has a directory of its own there, named after the time of its start; a resumed
    one goes on in the newest.
    """
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
            runs = sorted(path for path in directory.glob("*") if path.is_dir()) if resume else []
            new = directory / datetime.now().strftime("%Y-%m-%dT%H-%M-%S")
            callback.logging_dir = str(runs[-1] if runs else new)
