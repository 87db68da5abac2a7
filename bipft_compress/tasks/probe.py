"""Classification on frozen embeddings: a linear probe (Alain & Bengio 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

from bipft_compress.errors import CorpusError
from bipft_compress.tasks.embedding import Embed, unit_rows
from bipft_compress.tasks.tables import ENDINGS, column, read_rows

TEXT, LABEL = "text", "category"
"""Columns of a table, where no others are named."""

_MOST_ITERATIONS = 1000

INVERSE_REGULARIZATION = 10.0
"""scikit-learn's ``C``, for embeddings of length 1."""


@dataclass(frozen=True)
class LabelledTexts:
    """Texts and the class of each."""

    texts: list[str]
    labels: list[str]

    @classmethod
    def read(cls, path: Path, text: str, label: str) -> LabelledTexts:
        """Read a table; see `tables.read_rows`.

        Raises:
            CorpusError: the file is missing or lacks a column.
        """
        rows = read_rows(path)
        columns = (column(rows, name, str(path)) for name in (text, label))
        return cls(*([str(value) for value in values] for values in columns))


def probe_accuracy(
    train: np.ndarray, train_labels: list[str], test: np.ndarray, test_labels: list[str]
) -> float:
    """Accuracy on the test texts of a logistic regression on the training texts, in [0, 1].

    Args:
        train: embeddings (texts, dimensions), scaled to length 1 here, so that the penalty weighs
            as much for every model.
        train_labels: at least two classes.
        test: embeddings (texts, dimensions).
        test_labels: of `test`.
    """
    probe = LogisticRegression(C=INVERSE_REGULARIZATION, max_iter=_MOST_ITERATIONS)
    probe.fit(unit_rows(train), train_labels)
    return float(probe.score(unit_rows(test), test_labels))


class ProbeTask:
    """Accuracy of a linear probe on each of several data sets.

    Args:
        data: two tables with a comma between (train, test), or a directory of such pairs:
            ``train`` and ``test``, or ``NAME-train`` and ``NAME-test``.
        text: column of the text.
        label: column of the class.

    Raises:
        CorpusError: there is no such pair, a table cannot be read, or there is one class only.
    """

    def __init__(self, data: str | Path, text: str = TEXT, label: str = LABEL) -> None:
        self.sets: dict[str, tuple[LabelledTexts, LabelledTexts]] = {}
        for name, paths in _pairs(data).items():
            train, test = (LabelledTexts.read(path, text, label) for path in paths)
            if len(set(train.labels)) < 2:
                raise CorpusError(
                    f"{paths[0]} has one class only ({train.labels[0]!r}): there must be two."
                )
            self.sets[name] = train, test

    def measure(self, embed: Embed) -> dict[str, float]:
        return {
            f"{name}_probe_accuracy": probe_accuracy(
                embed(train.texts), train.labels, embed(test.texts), test.labels
            )
            for name, (train, test) in self.sets.items()
        }


def _pairs(data: str | Path) -> dict[str, tuple[Path, Path]]:
    """Name of each data set to its training and its test table."""
    root = Path(data)
    if root.is_dir():
        tables = {path.stem: path for path in sorted(root.iterdir()) if path.suffix in ENDINGS}
        pairs = {
            stem.removesuffix("train").rstrip("-_") or root.resolve().name: (path, tables[other])
            for stem, path in tables.items()
            if stem.endswith("train") and (other := stem.removesuffix("train") + "test") in tables
        }
        if not pairs:
            raise CorpusError(
                f"{root} holds no two tables to train and to measure on: call them train.csv and "
                "test.csv, or NAME-train.csv and NAME-test.csv."
            )
        return pairs
    paths = [Path(part.strip()) for part in str(data).split(",")]
    if len(paths) != 2:
        raise CorpusError(
            f"{data} is neither a directory nor two tables: give --data train.csv,test.csv."
        )
    train, test = paths
    name = train.stem.removesuffix("train").rstrip("-_") or train.resolve().parent.name
    return {name: (train, test)}
