"""Metrics against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bipft_compress.tasks.metrics import measure

# Labels 1 1 1 0 0; predicted 1 1 0 0 1: 2 true and 1 false positive, 1 true and 1 false negative.
LABELS = [1, 1, 1, 0, 0]
LOGITS = np.eye(2)[[1, 1, 0, 0, 1]]


def test_classes():
    found = measure(("accuracy", "f1", "matthews"), LABELS, LOGITS)
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert found["matthews"] == pytest.approx((2 * 1 - 1 * 1) / math.sqrt(3 * 3 * 2 * 2))


def test_numbers():
    # Deviations (-1.5, -.5, .5, 1.5) and (-1.5, .5, -.5, 1.5): covariance 4 of 5.
    found = measure(("pearson", "spearman"), [1, 2, 3, 4], np.array([[1.0], [3.0], [2.0], [4.0]]))
    assert found == pytest.approx({"pearson": 0.8, "spearman": 0.8})
    # Ranks see no distances.
    found = measure(("pearson", "spearman"), [1, 2, 3], np.array([[0.0], [0.0], [9.0]]))
    assert found["pearson"] == pytest.approx(math.sqrt(3) / 2)
    assert found["spearman"] == pytest.approx(math.sqrt(3) / 2)


def test_constant_predictions_are_0_and_no_warning(recwarn):
    found = measure(("matthews", "f1"), LABELS, np.eye(2)[[0] * 5])
    assert found == {"matthews": 0, "f1": 0}
    found = measure(("pearson", "spearman"), [1, 2, 3], np.ones((3, 1)))
    assert found == {"pearson": 0, "spearman": 0}
    assert not recwarn.list
