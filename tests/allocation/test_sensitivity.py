"""What an error somewhere comes to at the end: first order, and never more than all there is."""

from __future__ import annotations

import pytest
import torch

from bipft_compress.allocation.sensitivity import error_at_end

SENSITIVITY = torch.tensor([2.0, 0.5])


def test_small_errors_are_of_first_order():
    left = torch.tensor([[1e-3, 0.0], [0.0, 2e-3]])
    assert error_at_end(SENSITIVITY, left) == pytest.approx((2e-6 + 2e-6) / 2, rel=1e-4)


def test_a_token_counts_once_at_most():
    left = torch.tensor([[1e9, 0.0], [0.0, 0.0], [0.5**0.5, 0.0], [0.0, 0.0]])
    assert error_at_end(SENSITIVITY, left) == pytest.approx((1.0 + 0.5) / 4)
