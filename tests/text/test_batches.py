"""Batches of similar lengths, in an order that can be found again."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bipft_compress.text.batches import (
    LengthBatchSampler,
    calibration_batches,
    token_frequencies,
)


@given(
    lengths=st.lists(st.integers(1, 50), max_size=300),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 5),
)
def test_sampler_is_a_permutation(lengths: list[int], batch_size: int, seed: int) -> None:
    sampler = LengthBatchSampler(lengths, batch_size, seed)
    assert len(sampler) == len(lengths)
    assert sorted(sampler) == list(range(len(lengths)))


def test_sampler_order_depends_on_seed_and_epoch_alone() -> None:
    lengths = torch.randint(5, 128, (1000,), generator=torch.Generator().manual_seed(0))

    def order(seed: int, epoch: int) -> list[int]:
        sampler = LengthBatchSampler(lengths, 8, seed)
        sampler.set_epoch(epoch)
        torch.manual_seed(seed * 100 + epoch)
        return list(sampler)

    assert order(0, 0) == order(0, 0)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    list(LengthBatchSampler(lengths, 8))
    assert torch.equal(torch.get_rng_state(), state)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_sampler_batches_have_similar_lengths_and_the_incomplete_one_is_last() -> None:
    # 50 batches of 4 make one pool, so here all of it is sorted: 51 lengths, each four times.
    lengths = [1 + number % 50 for number in range(199)]
    order = list(LengthBatchSampler(lengths, 4))
    batches = [[lengths[index] for index in order[at : at + 4]] for at in range(0, 199, 4)]
    assert len(batches[-1]) == 3
    assert all(max(batch) - min(batch) <= 1 for batch in batches)
    firsts = [batch[0] for batch in batches[:-1]]
    assert firsts != sorted(firsts)


@given(
    lengths=st.lists(st.integers(1, 20), max_size=50),
    batch_tokens=st.integers(1, 60),
)
def test_calibration_batches_have_no_padding(lengths: list[int], batch_tokens: int) -> None:
    given_sequences = [[index] * length for index, length in enumerate(lengths)]
    batches = calibration_batches(given_sequences, batch_tokens)
    rows = [row for batch in batches for row in batch.tolist()]
    assert rows == sorted(given_sequences, key=len)
    for batch in batches:
        assert batch.dtype == torch.int64
        assert batch.numel() <= batch_tokens or len(batch) == 1


def test_calibration_batches_are_as_few_as_fit() -> None:
    batches = calibration_batches([[1, 2], [3, 4, 5], [6, 7], [8, 9]], batch_tokens=4)
    assert [batch.tolist() for batch in batches] == [[[1, 2], [6, 7]], [[8, 9]], [[3, 4, 5]]]


def test_token_frequencies_without_text_follow_zipf() -> None:
    frequencies = token_frequencies([], 101)
    assert frequencies.dtype == torch.float64
    assert frequencies.sum().item() == pytest.approx(1.0)
    assert (frequencies[0] / frequencies[100]).item() == pytest.approx(2.0)


@given(st.lists(st.lists(st.integers(0, 9), max_size=8), max_size=20))
def test_token_frequencies(token_ids: list[list[int]]) -> None:
    counts = Counter(token for sequence in token_ids for token in sequence)
    total = counts.total()
    share = 0.95 if total else 0.0
    law = token_frequencies([], 10)
    expected = [
        share * counts[token] / max(total, 1) + (1 - share) * law[token].item()
        for token in range(10)
    ]
    assert token_frequencies(token_ids, 10).tolist() == pytest.approx(expected)
