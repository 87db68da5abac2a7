"""Moments that several processes gathered are those of all their tokens."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

import pytest
import torch

from bipft_compress.fitting import moments
from bipft_compress.fitting.moments import LinearMoments


@pytest.mark.parametrize("shares", [(700, 300), (1000, 0)])
def test_shares_join_to_the_moments_of_all(monkeypatch, shares):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 7, generator=generator, dtype=torch.float64)
    x = x + torch.linspace(-50, 50, 1000, dtype=torch.float64)[:, None]
    b, y = x.sign(), x[:, :3] ** 2
    whole = LinearMoments(7, 3)
    whole.update(x, b, y)
    expected = whole.centred()

    meeting, own, given = threading.Barrier(2), threading.local(), [torch.empty(0)] * 2

    def total(part):
        given[own.index] = part
        meeting.wait()
        result = given[0] + given[1]
        meeting.wait()
        return result

    monkeypatch.setattr(moments, "is_alone", lambda: False)
    monkeypatch.setattr(moments, "total", total)

    def gather(index):
        own.index = index
        rows = slice(0, shares[0]) if index == 0 else slice(shares[0], 1000)
        part = LinearMoments(7, 3)
        if shares[index]:
            part.update(x[rows], b[rows], y[rows])
        return part.centred()

    with ThreadPoolExecutor(2) as pool:
        for joined in pool.map(gather, range(2)):
            for field in fields(expected):
                both = (getattr(one, field.name) for one in (joined, expected))
                torch.testing.assert_close(*both, rtol=1e-9, atol=1e-9)
