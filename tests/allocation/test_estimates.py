"""Errors with estimators: less where there is something to find, and not where there is not."""

from __future__ import annotations

import pytest
import torch

from bipft_compress.allocation.estimates import RANKS, Estimates

TOKENS, IN, OUT = 4000, 24, 40

SMALL = 1e-9
"""Of a sensitivity: errors are so small that they come to their first order."""


def _small(*widths: int) -> list[torch.Tensor]:
    return [torch.full((width,), SMALL) for width in widths]


def _gains(low: torch.Tensor, noise: float = 0.5) -> dict[int, float]:
    """Of layers of 30 and 10 outputs whose codes miss a map of rank 2, and noise."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(TOKENS, IN, generator=generator)
    values, weight = x.sign(), torch.randn(OUT, IN, generator=generator)
    y = values @ weight.T + x @ low.T + noise * torch.randn(TOKENS, OUT, generator=generator)
    estimates = Estimates(x - x.mean(0), y, _small(30, 10), 1e-3)
    estimates.read(values)
    errors = {rank: sum(error) / SMALL for rank, error in estimates.errors(weight)}
    assert errors.keys() == {0, *RANKS}
    return {rank: errors[0] - errors[rank] for rank in RANKS}


def test_a_map_of_rank_two_is_found_by_rank_two():
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.randn(n, 2, generator=generator) for n in (OUT, IN))
    low = left @ right.T
    gains = _gains(low)
    assert gains[2] == pytest.approx(float(low.square().sum()), rel=0.1)
    assert gains[1] < 0.95 * gains[2]
    assert gains[8] == pytest.approx(gains[2], rel=0.05)


def test_noise_is_not_explained():
    """A regression that is counted on its own tokens would take 24 of 2,000 parts for each rank."""
    assert all(gain <= 0 for gain in _gains(torch.zeros(OUT, IN)).values())


def test_an_error_is_that_of_the_tokens_that_estimators_were_not_fitted_to():
    """One token of a large value: with and without an estimator, it counts in the same mean."""
    generator = torch.Generator().manual_seed(2)
    x, weight = torch.randn(400, 4, generator=generator), torch.eye(4)
    y = x.clone()
    y[1] += 100.0
    estimates = Estimates(x - x.mean(0), y, _small(4), 1e-3)
    estimates.read(x)
    errors = dict(estimates.errors(weight))
    left = (y - y.mean(0) - (x - x.mean(0)))[1::2]
    assert errors[0] == [pytest.approx(SMALL * float(left.square().sum(1).mean()), rel=1e-3)]
    assert all(errors[rank][0] >= 0.9 * errors[0][0] for rank in RANKS if rank <= 4)
