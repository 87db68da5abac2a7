"""What a person sees while training runs: a bar with time left, or plain lines in a log."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
)
from rich.text import Text
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

logger = logging.getLogger("bipft_compress")


def progress_bar(console: Console, unit: str) -> Progress:
    """The look of every bar: description, bar, count, times, free text."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn(unit),
        _TimesColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


class _TimesColumn(ProgressColumn):
    """Time that has passed, and as soon as there is a speed the time left."""

    def render(self, task: Task) -> Text:
        passed = f"{timedelta(seconds=int(task.elapsed or 0))} passed"
        left = task.time_remaining
        return Text(passed if left is None else f"{passed}, {timedelta(seconds=int(left))} left")


class TrainingProgress(TrainerCallback):
    """Shows loss, tokens per second and time left; the last step is always logged.

    Args:
        console: where to; a bar on a terminal, log lines elsewhere or where it is quiet.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._start = (0.0, 0)

    @override
    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        self._start = time.monotonic(), state.num_input_tokens_seen
        if state.is_world_process_zero and self._console.is_terminal and not self._console.quiet:
            self._bar = progress_bar(self._console, "steps")
            self._bar.start()
            self._task = self._bar.add_task(
                "training", total=state.max_steps, completed=state.global_step, note=""
            )

    @override
    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        if state.global_step == state.max_steps:
            control.should_log = True  # a record says how many tokens were seen in all
        if self._bar is not None:
            self._bar.update(self._task, completed=state.global_step)

    @override
    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        seconds = time.monotonic() - self._start[0]
        speed = (state.num_input_tokens_seen - self._start[1]) / max(seconds, 1e-9)
        note = f"loss {float(logs['loss']):.4f}, {speed:,.0f} tokens/s"
        if self._bar is not None:
            self._bar.update(self._task, note=note)
        else:
            logger.info("step %d of %d: %s", state.global_step, state.max_steps, note)

    @override
    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar away, also after a fault."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
