"""Codes of the word embeddings: decoded rows, storage, ties, gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bipft_compress.nn import FrequencyAwareEmbedding, SignEmbedding, TiedDecoder

ROWS, WIDTH, FREQUENT, SUBVECTOR = 30, 10, 6, 4


def _frequency_aware(seed: int = 0) -> FrequencyAwareEmbedding:
    """Random values everywhere; frequent rows scattered over the vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    embedding = FrequencyAwareEmbedding(ROWS, WIDTH, frequent_rows=FREQUENT, subvector=SUBVECTOR)
    embedding.is_frequent.zero_()
    embedding.is_frequent[torch.tensor([1, 4, 5, 17, 20, 29])] = True
    embedding.refresh()
    with torch.no_grad():
        embedding.frequent.copy_(torch.randn(FREQUENT, WIDTH, generator=generator))
        largest = embedding.frequent.abs().amax(1, keepdim=True)
        embedding.rounding.scale.copy_(largest / 7)
        embedding.codebooks.copy_(torch.randn(embedding.codebooks.shape, generator=generator))
        embedding.centroid_rounding.scale.fill_(2**-5)
    embedding.codes.copy_(torch.randint(0, 256, embedding.codes.shape, generator=generator))
    return embedding


def test_sign_rows():
    table = torch.tensor([[1.0, -3.0, 0.0, -0.0], [-2.0, -2.0, 4.0, 0.5]])
    embedding = SignEmbedding(2, 4)
    embedding.initialise(table)
    assert embedding.weight.tolist() == [[1.0, -1.0, 1.0, 1.0], [-2.125, -2.125, 2.125, 2.125]]
    assert torch.equal(embedding(torch.tensor([1, 0])), embedding.weight.flip(0))


@pytest.mark.parametrize("make", [_frequency_aware, lambda: SignEmbedding(ROWS, WIDTH)])
def test_weight_is_the_rows_of_all_ids(make):
    embedding = make()
    ids = torch.tensor([[3, 0, 29], [17, 17, 5]])
    assert embedding.weight.shape == (ROWS, WIDTH)
    assert embedding(ids).shape == (2, 3, WIDTH)
    assert torch.equal(embedding(ids), embedding.weight[ids])


def test_frequent_rows_are_within_half_a_step():
    embedding = _frequency_aware()
    decoded = embedding.weight[embedding.is_frequent]
    step = embedding.rounding.scale
    assert ((decoded - embedding.frequent).abs() <= step / 2 + 1e-6).all()
    codes = decoded / step
    assert (codes - codes.round()).abs().max() < 1e-5
    assert codes.abs().max().round() == 7


def test_rare_rows_are_their_centroids():
    embedding = _frequency_aware()
    rare = [row for row in range(ROWS) if not embedding.is_frequent[row]]
    decoded = embedding.weight
    for place, row in enumerate(rare):
        parts = [
            (embedding.codebooks[part, int(embedding.codes[place, part])] * 32).round() / 32
            for part in range(3)
        ]
        # Centroids are rounded to 8 bits; the last part is cut to the width of the row.
        expected = torch.cat(parts).clamp(-127 / 32, 127 / 32)[:WIDTH]
        torch.testing.assert_close(decoded[row], expected, atol=1e-6, rtol=0)


def test_state_dict_round_trip_restores_positions():
    original = _frequency_aware()
    assert "position" not in original.state_dict()
    fresh = FrequencyAwareEmbedding(ROWS, WIDTH, frequent_rows=FREQUENT, subvector=SUBVECTOR)
    assert not torch.equal(fresh.position, original.position)
    fresh.load_state_dict(original.state_dict())
    assert torch.equal(fresh.position, original.position)
    assert torch.equal(fresh.weight, original.weight)


def test_positions_survive_loading_a_whole_model():
    model, fresh = nn.Sequential(_frequency_aware()), nn.Sequential(_frequency_aware(1))
    fresh[0].is_frequent.copy_(torch.arange(ROWS) < FREQUENT)
    fresh[0].refresh()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh[0].weight, model[0].weight)


class _Model(nn.Module):
    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.embedding = embedding
        self.decoder = TiedDecoder(embedding, nn.Parameter(torch.arange(ROWS).float()))


def test_tied_decoder_follows_the_embedding_and_is_not_stored_twice():
    model = _Model(_frequency_aware())
    alone = {f"embedding.{name}" for name in _frequency_aware().state_dict()}
    assert set(model.state_dict()) == alone | {"decoder.bias"}
    hidden = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(1))
    expected = hidden @ model.embedding.weight.T + torch.arange(ROWS)
    torch.testing.assert_close(model.decoder(hidden), expected)
    with torch.no_grad():
        model.embedding.frequent[0] *= -1
    after = model.decoder(hidden)
    torch.testing.assert_close(after[:, 1] - 1, -(expected[:, 1] - 1))
    untouched = [row for row in range(ROWS) if row != 1]
    torch.testing.assert_close(after[:, untouched], expected[:, untouched])


def test_a_copied_decoder_follows_the_copied_embedding():
    model = _Model(_frequency_aware())
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied.embedding.codebooks.zero_()
        copied.embedding.frequent.zero_()
    assert copied.decoder.weight.abs().max() == 0
    assert model.decoder.weight.abs().max() > 0


@pytest.mark.parametrize("through", ["lookup", "decoder"])
def test_gradients_reach_codebooks_rows_and_scales(through):
    model = _Model(_frequency_aware())
    used = torch.tensor([0, 4])  # a rare and a frequent row
    if through == "lookup":
        out = model.embedding(used)
    else:
        out = model.decoder(torch.eye(WIDTH))[:, used].T
    out.square().sum().backward()
    embedding = model.embedding
    # Row 4 is the second frequent one, row 0 the first rare one; nothing else was read.
    assert embedding.frequent.grad.abs().sum(1).nonzero().flatten().tolist() == [1]
    reached = embedding.codebooks.grad.abs().sum(2).nonzero().tolist()
    assert reached == [[part, int(embedding.codes[0, part])] for part in range(3)]
    assert embedding.rounding.scale.grad[1].abs() > 0
    assert embedding.centroid_rounding.scale.grad.abs().sum() > 0


def test_sign_embedding_trains_latent_signs_and_scales():
    embedding = SignEmbedding(3, 2)
    embedding.initialise(torch.tensor([[1.0, -1.0], [2.0, 2.0], [3.0, -5.0]]))
    embedding(torch.tensor([2])).backward(torch.tensor([[1.0, 10.0]]))
    assert embedding.latent.grad.tolist() == [[0, 0], [0, 0], [4.0, 40.0]]  # times the scale
    assert embedding.scale.grad.flatten().tolist() == [0, 0, 1.0 - 10.0]
