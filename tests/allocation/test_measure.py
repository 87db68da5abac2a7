"""What an error somewhere comes to at the end: less by kind, and never more than all there is."""

from __future__ import annotations

import pytest
import torch

from bipft_compress.allocation.measure import LEFT, error_at_end
from bipft_compress.spec import KINDS


def test_small_errors_are_of_first_order_and_large_ones_saturate():
    sensitivity = torch.tensor([2.0, 0.5])
    small = error_at_end(sensitivity, torch.tensor([1e-6, 4e-6]), "embedding")
    assert small == pytest.approx(4e-6, rel=1e-4)
    one = error_at_end(sensitivity, torch.tensor([0.5, 0.0]), "embedding")
    assert one == pytest.approx(0.5)
    assert error_at_end(sensitivity, torch.tensor([1e9, 0.0]), "ffn_down") <= LEFT["ffn_down"]


def test_every_kind_of_module_has_its_share():
    linears = set(KINDS) - {"scores", "context"}
    assert linears | {"embedding", "attention"} == set(LEFT)
    assert all(0 < share <= 1 for share in LEFT.values())
