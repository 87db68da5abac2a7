"""The tasks of GLUE (Wang et al. 2019), from the hub or from its own files."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bipft_compress.errors import PROGRAMMING_ERRORS, CorpusError, first_line
from bipft_compress.tasks.labelled import Columns, Examples, Task, examples
from bipft_compress.tasks.tables import read_rows

HUB = "hub"
"""In place of a directory: take the data from the hub."""

logger = logging.getLogger("bipft_compress")

_YES_NO = ("0", "1")
_ENTAILMENT = ("entailment", "not_entailment")


@dataclass(frozen=True)
class GlueTask:
    """One task.

    Attributes:
        folder: of its files, as GLUE's archives name it.
        columns: of its files.
        metrics: names in `metrics.METRICS`.
        labels: classes in the order of the hub's numbers, as the files name them; none for a
            regression.
        hub_columns: where they differ from `columns`.
        header: of files that have none.
        dev: the splits to measure on, by what follows ``dev`` or ``validation`` in their names.
    """

    folder: str
    columns: Columns
    metrics: tuple[str, ...]
    labels: tuple[str, ...] = _YES_NO
    hub_columns: Columns | None = None
    header: tuple[str, ...] = ()
    dev: tuple[str, ...] = ("",)


_PAIR = Columns("sentence1", "sentence2", "label")
_QUESTIONS = ("question1", "question2")

GLUE: dict[str, GlueTask] = {
    "cola": GlueTask(
        "CoLA",
        Columns("sentence", None, "label"),
        ("matthews",),
        header=("source", "label", "mark", "sentence"),
    ),
    "sst2": GlueTask("SST-2", Columns("sentence", None, "label"), ("accuracy",)),
    "mrpc": GlueTask(
        "MRPC",
        Columns("#1 String", "#2 String", "Quality"),
        ("f1", "accuracy"),
        hub_columns=_PAIR,
    ),
    "stsb": GlueTask(
        "STS-B",
        Columns("sentence1", "sentence2", "score"),
        ("pearson", "spearman"),
        labels=(),
        hub_columns=_PAIR,
    ),
    "qqp": GlueTask(
        "QQP",
        Columns(*_QUESTIONS, "is_duplicate"),
        ("f1", "accuracy"),
        hub_columns=Columns(*_QUESTIONS, "label"),
    ),
    "mnli": GlueTask(
        "MNLI",
        Columns("sentence1", "sentence2", "gold_label"),
        ("accuracy",),
        labels=("entailment", "neutral", "contradiction"),
        hub_columns=Columns("premise", "hypothesis", "label"),
        dev=("_matched", "_mismatched"),
    ),
    "qnli": GlueTask(
        "QNLI", Columns("question", "sentence", "label"), ("accuracy",), labels=_ENTAILMENT
    ),
    "rte": GlueTask("RTE", _PAIR, ("accuracy",), labels=_ENTAILMENT),
    "wnli": GlueTask("WNLI", _PAIR, ("accuracy",)),
}


def read_glue(name: str, data: str | Path, *, training: bool = True) -> Task:
    """A task with its data.

    Args:
        name: in `GLUE`.
        data: ``hub``, the directory of the task's ``train.tsv`` and ``dev.tsv``, or one that holds
            it under GLUE's name for it.
        training: read what to train on too.

    Raises:
        CorpusError: data is missing, has another layout, or the hub does not answer.
    """
    task = GLUE[name]
    read = _from_hub if str(data) == HUB else _from_files
    train = read(name, data, "train") if training else None
    dev = {split.strip("_"): read(name, data, f"dev{split}") for split in task.dev}
    return Task(name, task.labels, task.metrics, train, dev)


def _from_files(name: str, data: str | Path, split: str) -> Examples:
    task = GLUE[name]
    directory = Path(data)
    if not directory.is_dir():
        raise CorpusError(
            f"There is no directory {directory}: give one with {name}'s train.tsv and dev.tsv, or "
            f"{HUB}."
        )
    if (directory / task.folder).is_dir():
        directory = directory / task.folder
    path = directory / f"{split}.tsv"
    rows = read_rows(path, task.header)
    required = [column for column in task.columns if column is not None]
    # Some of GLUE's files have a few lines that break off.
    whole = [row for row in rows if all(row.get(column) is not None for column in required)]
    if whole and len(whole) < len(rows):
        logger.info("%s: %d incomplete lines left out", path, len(rows) - len(whole))
    return examples(whole or rows, task.columns, task.labels, str(path))


def _from_hub(name: str, _: str | Path, split: str) -> Examples:
    import datasets  # here, as it takes seconds and local files do without

    task = GLUE[name]
    where = f"GLUE's {name} on the hub"
    try:
        data = datasets.load_dataset("nyu-mll/glue", name, split=split.replace("dev", "validation"))
    except PROGRAMMING_ERRORS:
        raise
    except Exception as error:  # the hub client raises a dozen kinds
        raise CorpusError(
            f"{where} cannot be read ({first_line(error)}): check the network, or give a directory "
            "of its files."
        ) from None
    columns = task.hub_columns or task.columns
    rows: list[dict[str, Any]] = [dict(row) for row in data]
    if task.labels:
        # The hub has the classes' numbers.
        rows = [row | {columns.label: task.labels[row[columns.label]]} for row in rows]
    return examples(rows, columns, task.labels, where)
