"""Which task, on which data: what the command line's options come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bipft_compress.errors import UserError
from bipft_compress.tasks.glue import GLUE, read_glue
from bipft_compress.tasks.labelled import Columns, Task, read_own

CUSTOM = "custom"


@dataclass(frozen=True)
class ChosenTask:
    """A task by name, not read yet.

    Args:
        name: one of GLUE's, or ``custom`` for a table of the user's own.
        data: see `read_glue` and `read_own`.
        columns: ``custom``: where text and label are.
        regression: ``custom``: labels are numbers.

    Raises:
        UserError: there is no such task, or columns are missing or given to a task of GLUE.
    """

    name: str
    data: str | Path
    columns: Columns | None = None
    regression: bool = False

    def __post_init__(self) -> None:
        if self.name not in (*GLUE, CUSTOM):
            raise UserError(
                f"Unknown task {self.name!r}: choose one of {', '.join(GLUE)} or {CUSTOM}."
            )
        if self.name == CUSTOM and self.columns is None:
            raise UserError("A custom task needs --text-column and --label-column.")
        if self.name != CUSTOM and (self.columns is not None or self.regression):
            raise UserError(
                f"Columns and --regression go with --task {CUSTOM}: {self.name} has its own."
            )

    def read(self, labels: Sequence[str] = (), *, training: bool = True) -> Task:
        """Read the data; `labels` are the classes' names where a checkpoint knows them.

        Raises:
            CorpusError: see `read_glue` and `read_own`.
        """
        if self.columns is None:
            return read_glue(self.name, self.data, training=training)
        return read_own(
            self.data,
            self.columns,
            regression=self.regression,
            labels=labels,
            training=training,
        )
