"""Descent by the sentence terms: better on texts held out, the same every time, or undone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bipft_compress.fitting.sentences import BATCH_TEXTS, HELD_OUT, held_out, train_embeddings
from bipft_compress.losses import sentence_cosine, sentence_similarity
from bipft_compress.recipe import Recipe

OBJECTIVE = Recipe.load(
    {"objective": {"sentence_cosine": 1.0, "sentence_similarity": 2.0}}
).objective


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def train(
    texts: int, away: float = 1.0, noise: float = 0.0, frozen: bool = False
) -> tuple[bool, nn.Linear, float, float]:
    """A map towards another one: whether it was kept, and its loss on new texts before, after."""
    x, goal = normal(texts, 12, seed=0), normal(8, 12, seed=1)
    layer = nn.Linear(12, 8)
    with torch.no_grad():
        layer.weight.copy_(goal + away * normal(8, 12, seed=2))
        layer.bias.zero_()
    others = normal(300, 12, seed=3)

    @torch.no_grad()
    def loss() -> float:
        own, wanted = layer(others), others @ goal.T
        near = sentence_similarity(own, wanted, OBJECTIVE.temperature)
        return float(sentence_cosine(own, wanted) + 2 * near)

    before = loss()
    layer.weight.requires_grad_(not frozen)
    kept = train_embeddings(
        layer, lambda numbers: layer(x[numbers]), x @ goal.T + noise * normal(texts, 8, seed=4),
        OBJECTIVE, lengths=[1 + number // 100 for number in range(texts)], steps=80,
        learning_rate=5e-3, name="map",
    )  # fmt: skip
    return kept, layer, before, loss()


def test_new_texts_are_nearer_to_what_is_wanted():
    kept, _, before, after = train(3 * BATCH_TEXTS)
    assert kept
    assert after < 0.5 * before


def test_it_is_the_same_every_time():
    assert torch.equal(train(700)[1].weight, train(700)[1].weight)


def test_what_pretraining_froze_is_trained_and_frozen_again():
    kept, layer, before, after = train(700, frozen=True)
    assert kept
    assert after < 0.7 * before
    assert [parameter.requires_grad for parameter in layer.parameters()] == [False, True]


def test_what_makes_texts_held_out_no_better_is_undone():
    kept, _, before, after = train(40, away=0.0, noise=3.0)
    assert not kept
    assert after == pytest.approx(before)


def test_some_of_every_length_are_held_out():
    left_out = held_out(4 * HELD_OUT)
    assert left_out.nonzero().flatten().tolist() == [9, 19, 29, 39]
