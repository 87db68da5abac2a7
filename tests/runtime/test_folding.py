"""Folding against the plain question, asked for every popcount."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bipft_compress.runtime.folding import fold


def inside(popcounts, intervals):
    low, width, flip = (part.long()[:, None] for part in intervals)
    return ((popcounts - low) % 2**16 <= width) ^ (flip != 0)


@settings(deadline=None, max_examples=60)
@given(width=st.integers(1, 90), seed=st.integers(0), gelu=st.booleans())
def test_intervals_answer_as_the_function_does(width, seed, gelu):
    generator = torch.Generator().manual_seed(seed % 2**63)
    scale, bias, threshold = (torch.randn(300, generator=generator) * 0.3 for _ in range(3))
    activate = torch.nn.functional.gelu if gelu else None
    intervals = fold(scale, bias, width, threshold, activate)
    assert intervals is not None
    popcounts = torch.arange(width + 1)[None]
    outputs = scale[:, None] * (width - 2 * popcounts) + bias[:, None]
    expected = (activate(outputs) if activate else outputs) >= threshold[:, None]
    assert torch.equal(inside(popcounts, intervals), expected)


def test_the_dip_of_a_gelu_is_an_interval_of_minus_ones():
    """GELU has its minimum of -0.17 at -0.75: against -0.1 both ends are +1."""
    intervals = fold(
        torch.tensor([0.1]), torch.zeros(1), 64, torch.tensor([-0.1]), torch.nn.functional.gelu
    )
    assert intervals is not None
    assert intervals.flip.item() == 65535
    values = torch.nn.functional.gelu(0.1 * (64 - 2.0 * torch.arange(65)))
    below = (values < -0.1).nonzero().flatten()
    assert intervals.low.item() == below[0]
    assert intervals.range.item() == len(below) - 1


@pytest.mark.parametrize(("bias", "answer"), [(5.0, True), (-5.0, False)])
def test_rows_that_always_answer_the_same(bias, answer):
    intervals = fold(torch.zeros(1), torch.tensor([bias]), 10, torch.zeros(1))
    assert intervals is not None
    assert (inside(torch.arange(11)[None], intervals) == answer).all()


def test_what_is_no_interval_is_not_folded():
    wave = fold(torch.ones(1), torch.zeros(1), 20, torch.zeros(1), torch.sin)
    assert wave is None
