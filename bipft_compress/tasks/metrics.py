"""GLUE's metrics (Wang et al. 2019), of predictions and labels."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

Numbers = np.ndarray


def _correlation(measure: Callable[[Numbers, Numbers], object]) -> Callable[..., float]:
    def correlation(labels: Numbers, predictions: Numbers) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constant predictions: said by the 0
            value = float(measure(labels, predictions).statistic)  # type: ignore[attr-defined]
        return 0.0 if math.isnan(value) else value

    return correlation


METRICS: dict[str, Callable[[Numbers, Numbers], float]] = {
    "accuracy": lambda labels, predictions: float(accuracy_score(labels, predictions)),
    "f1": lambda labels, predictions: float(f1_score(labels, predictions, zero_division=0.0)),
    "matthews": lambda labels, predictions: float(matthews_corrcoef(labels, predictions)),
    "pearson": _correlation(pearsonr),
    "spearman": _correlation(spearmanr),
}
"""Name to function of labels and predictions; 0 for correlations with what is constant."""


def measure(names: Sequence[str], labels: Sequence[float], logits: Numbers) -> dict[str, float]:
    """Metrics of a split.

    Args:
        names: in `METRICS`.
        labels: of the examples: numbers of classes, or what a regression predicts.
        logits: (examples, classes), or (examples, 1) for a regression.
    """
    predictions = logits[:, 0] if logits.shape[1] == 1 else logits.argmax(1)
    return {name: METRICS[name](np.asarray(labels), predictions) for name in names}
