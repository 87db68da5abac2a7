"""The readout: products by hand, one correction a text, and no look at padding."""

from __future__ import annotations

import pytest
import torch

from bipft_compress.nn.readout import Readout, embeddings_of, evenly_spaced


@pytest.fixture
def states():
    """Three hidden states, (2, 4, 3); the second text has two tokens of padding."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    return [torch.randn(2, 4, 3, generator=generator) for _ in range(3)], mask


def _filled(*, first_token: bool) -> Readout:
    readout = Readout(3, (0, 2), 2, 5, first_token=first_token)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in readout.parameters():
            parameter.normal_(generator=generator)
    return readout


@torch.no_grad()
def test_every_token_is_corrected_by_what_the_means_say(states):
    hidden_states, mask = states
    readout = _filled(first_token=False)
    corrected = readout(hidden_states[2], hidden_states, mask)
    for text, tokens in enumerate((4, 2)):
        means = torch.cat([hidden_states[n][text, :tokens].mean(0) for n in (0, 2)])
        wanted = readout.up.weight @ (readout.down.weight @ means) + readout.up.bias
        torch.testing.assert_close(corrected[text] - hidden_states[2][text], wanted.expand(4, 3))
    # So the mean, whoever takes it, is corrected by as much.
    moved = embeddings_of(corrected, mask, False) - embeddings_of(hidden_states[2], mask, False)
    torch.testing.assert_close(moved, (corrected - hidden_states[2])[:, 0])


@torch.no_grad()
def test_of_the_first_token_nothing_else_is_corrected(states):
    hidden_states, mask = states
    readout = _filled(first_token=True)
    corrected = readout(hidden_states[2], hidden_states, mask)
    assert torch.equal(corrected[:, 1:], hidden_states[2][:, 1:])
    read = torch.cat(
        [hidden_states[0][1, :2].mean(0), hidden_states[0][1, 0],
         hidden_states[2][1, :2].mean(0), hidden_states[2][1, 0]]
    )  # fmt: skip
    wanted = readout.up.weight @ (readout.down.weight @ read) + readout.up.bias
    torch.testing.assert_close(corrected[1, 0] - hidden_states[2][1, 0], wanted)


@torch.no_grad()
def test_padding_does_not_count(states):
    hidden_states, mask = states
    readout = _filled(first_token=False)
    before = readout(hidden_states[2], hidden_states, mask)[1, :2]
    noisy = [hidden.clone() for hidden in hidden_states]
    for hidden in noisy:
        hidden[1, 2:] = 1e3
    assert torch.equal(readout(noisy[2], noisy, mask)[1, :2], before)


def test_starts_at_zero(states):
    hidden_states, mask = states
    last = hidden_states[2]
    assert torch.equal(Readout(3, (0, 1, 2), 2, 5)(last, hidden_states, mask), last)


@pytest.mark.parametrize(
    ("number", "layers", "expected"),
    [(1, 6, (6,)), (2, 6, (0, 6)), (3, 6, (0, 3, 6)), (3, 12, (0, 6, 12)), (4, 12, (0, 4, 8, 12)),
     (7, 6, tuple(range(7))), (9, 6, tuple(range(7)))],
)  # fmt: skip
def test_layers_are_spaced_evenly(number, layers, expected):
    assert evenly_spaced(number, layers) == expected


def test_words_have_their_weights_and_padding_none():
    readout = Readout(3, (0,), 2, 5)
    ids, mask = torch.tensor([[0, 1, 2, 3, 4, 0]]), torch.tensor([[1, 1, 1, 1, 1, 0]])
    # Of words that nothing is known of, the plain mean.
    assert torch.equal(readout.weights(ids, mask), mask.float())
    readout.importance = torch.tensor([0x70, 0xF3, 0x0A], dtype=torch.uint8)
    expected = torch.tensor([[1.0, 8.0, 4.0, 16.0, 11.0, 0.0]]) / 16
    assert torch.equal(readout.weights(ids, mask), expected)
    assert torch.equal(readout.weights(ids, mask.bool()), expected)
    # Embeddings that are given without words.
    assert torch.equal(readout.weights(None, mask), mask.float())


@torch.no_grad()
def test_a_weighted_mean_by_hand(states):
    hidden_states, _ = states
    readout = _filled(first_token=False)
    weights = torch.tensor([[0.25, 0.5, 0.25, 0.0], [0.0625, 0.0, 0.0, 0.0]])
    features = readout.features(hidden_states, weights)
    for n, part in zip((0, 2), features.chunk(2, -1), strict=True):
        a, b, c, _ = hidden_states[n][0]
        torch.testing.assert_close(part[0], a / 4 + b / 2 + c / 4)
        torch.testing.assert_close(part[1], hidden_states[n][1, 0])
