"""Texts, or pairs of texts, with a label: classes or numbers to predict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bipft_compress.errors import CorpusError
from bipft_compress.tasks.tables import ENDINGS, column, read_rows

_HELD_OUT = 10
"""One row of so many of a single file measures what the others trained."""


class Columns(NamedTuple):
    """Where a table keeps text, second text (None for single texts) and label."""

    text: str
    pair: str | None
    label: str


@dataclass(frozen=True)
class Examples:
    """One split of a task; `labels` are numbers of classes, or what a regression predicts."""

    first: list[str]
    second: list[str] | None
    labels: list[float]

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, rows: Sequence[int]) -> Examples:
        """The examples of `rows`, in that order."""
        second = None if self.second is None else [self.second[row] for row in rows]
        return Examples(
            [self.first[row] for row in rows], second, [self.labels[row] for row in rows]
        )


@dataclass(frozen=True)
class Task:
    """A task with its data.

    Attributes:
        name: as on the command line.
        labels: names of the classes in the order of their numbers; empty for a regression.
        metrics: names in `metrics.METRICS`, the first is the task's own.
        train: what to train on; None where it was not asked for.
        dev: what to measure on: name of the split, '' where there is one, to examples.
    """

    name: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    train: Examples | None = None
    dev: Mapping[str, Examples] = field(default_factory=dict)

    @property
    def is_similarity(self) -> bool:
        """Whether a number is predicted for two texts: how alike they are."""
        return not self.labels and all(split.second is not None for split in self.dev.values())


def examples(
    rows: Sequence[dict[str, Any]], columns: Columns, labels: Sequence[str], where: str
) -> Examples:
    """Rows of a table as examples.

    Args:
        rows: see `tables.read_rows`.
        columns: where text and label are.
        labels: names of the classes; empty for a regression.
        where: names the data in faults.

    Raises:
        CorpusError: a column is missing, a label is no class or no number, or there is no row.
    """
    first = [str(text) for text in column(rows, columns.text, where)]
    second = None
    if columns.pair is not None:
        second = [str(text) for text in column(rows, columns.pair, where)]
    values = column(rows, columns.label, where)
    return Examples(first, second, list(_numbers(values, labels, where)))


def _numbers(values: Sequence[Any], labels: Sequence[str], where: str) -> list[float]:
    known = {name: number for number, name in enumerate(labels)}
    numbers: list[float] = []
    for row, value in enumerate(values, start=1):
        if labels:
            if str(value) not in known:
                raise CorpusError(
                    f"{where}, row {row}: label {str(value)!r} is none of {_shown(labels)}."
                )
            numbers.append(known[str(value)])
            continue
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise CorpusError(
                f"{where}, row {row}: {str(value)!r} is not a number: mend the row, or leave out "
                "--regression where labels are classes."
            )
        numbers.append(number)
    return numbers


def _shown(labels: Sequence[str], most: int = 10) -> str:
    return ", ".join(labels[:most]) + (", ..." if len(labels) > most else "")


def read_own(
    data: str | Path,
    columns: Columns,
    *,
    regression: bool = False,
    labels: Sequence[str] = (),
    training: bool = True,
) -> Task:
    """A task of the user's own.

    Args:
        data: a directory with ``train`` and ``dev`` as .tsv, .csv, .jsonl or .parquet; or one such
            file, of which every tenth row of a fixed shuffle is kept from training to measure on.
        columns: where text and label are.
        regression: labels are numbers.
        labels: names of the classes, where a checkpoint already knows them.
        training: read what to train on too; if not, a single file is measured as a whole.

    Raises:
        CorpusError: data is missing or cannot be read; see `examples`.
    """
    source = Path(data)
    tables = {}
    if source.is_dir():
        splits = ("train", "dev") if training else ("dev",)
        tables = {split: read_rows(_split_file(source, split)) for split in splits}
    else:
        tables["train" if training else "dev"] = read_rows(source)
    if regression:
        labels = ()
    elif not labels:
        values = column(tables.get("train", tables.get("dev", [])), columns.label, str(source))
        labels = sorted({str(value) for value in values})
        if len(labels) < 2:
            raise CorpusError(f"{source} has one class only ({labels[0]!r}): there must be two.")
    read = {
        split: examples(rows, columns, labels, f"{source} ({split})")
        for split, rows in tables.items()
    }
    if "dev" not in read:
        whole = read["train"]
        if len(whole) < 2:
            raise CorpusError(f"{source} holds {len(whole)} rows; at least 2 are needed.")
        order = np.random.default_rng(0).permutation(len(whole)).tolist()
        held = -(-len(whole) // _HELD_OUT)
        read = {"dev": whole.part(order[:held]), "train": whole.part(order[held:])}
    metrics = ("pearson", "spearman") if regression else ("accuracy",)
    return Task("custom", tuple(labels), metrics, read.get("train"), {"": read["dev"]})


def _split_file(directory: Path, split: str) -> Path:
    for ending in ENDINGS:
        if (directory / f"{split}{ending}").is_file():
            return directory / f"{split}{ending}"
    raise CorpusError(
        f"{directory} has no {split} file: call one {split}{ENDINGS[0]}, for example."
    )
