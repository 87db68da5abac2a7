"""What a layer is fitted on: how much of the text, and the arguments of its attention."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch

from bipft_compress.families import get_module, teacher_of, use_blocks
from bipft_compress.fitting import layer as module
from bipft_compress.fitting.initialise import initialise, segments
from bipft_compress.fitting.layerwise import LayerwiseRunner
from bipft_compress.recipe import Recipe
from bipft_compress.structure.swap import swap

FULL = {"embeddings": {"code": "full"}}


def _start(make_model, family, batches, recipe=None):
    """The errors of a start, and the student."""
    teacher, chosen = make_model(family), Recipe.load(recipe or FULL)
    student = copy.deepcopy(teacher)
    encoder, _ = swap(student, chosen)
    choices = chosen.initialisation
    return initialise(student, teacher_of(teacher), encoder, batches, choices), student, encoder


def test_attention_is_fitted_on_a_few_sequences_of_several_batches(
    make_model, shape, batches, monkeypatch
):
    monkeypatch.setattr(module, "ATTENTION_TOKENS", 60)
    monkeypatch.setattr(module, "ATTENTION_BATCHES", 2)
    seen, real = [], module.fit_attention

    def keep(attention, original, samples, *, damping):
        real(attention, original, samples, damping=damping)
        seen.append((attention, original, samples))

    monkeypatch.setattr(module, "fit_attention", keep)
    _, _, encoder = _start(make_model, shape, batches)
    # A segment of several calls is fitted twice.
    fits = sum(len(set(segment)) * (1 + (len(segment) > 1)) for segment in segments(encoder.calls))
    assert len(seen) == fits
    for attention, original, samples in seen:
        for sample in samples:
            batch, heads, length, _ = sample.student[0].shape
            assert (batch, length) in {(3, 9), (2, 14)}
            assert heads == attention.spec.heads
            assert [x.shape for x in sample.student] == [x.shape for x in sample.teacher]
            assert (sample.bias is not None) == attention.spec.position_bias
            assert sample.hidden.shape == (batch, length, attention.spec.width)
            assert sample.mask is None or len(sample.mask) in (1, batch)
            common = sample.mask, sample.bias
            assert attention(*sample.student, *common, sample.hidden).shape == (
                original(*sample.teacher, *common).shape
            )
        tokens = [sample.tokens for sample in samples]
        assert sum(tokens) >= 60 > sum(tokens[:-1])


def test_batches_that_moments_do_not_need_are_left_out(make_model, batches, monkeypatch):
    """46 tokens times 6, for inputs of 36 numbers and of 50."""
    counts = []

    class Counted(module.LinearMoments):
        def centred(self):
            found = super().centred()
            counts.append((self.in_features, self.count))
            return found

    monkeypatch.setattr(module, "LinearMoments", Counted)
    tokens = sum(batch.numel() for batch in batches)
    _start(make_model, "bert", batches)
    assert set(counts) == {(36, tokens), (50, tokens)}
    counts.clear()
    monkeypatch.setattr(module, "TOKENS_PER_INPUT", 3)
    _start(make_model, "bert", batches)
    halved = batches[0].numel() + batches[2].numel()
    assert set(counts) == {(36, halved), (50, tokens)}


def test_examples_of_all_lengths_are_visited():
    examples = list(range(50))
    visited = list(module._spread(examples))
    assert sorted(visited) == examples
    assert set(range(5)) != set(visited[:5])


def test_weights_of_zero_keep_a_sign():
    layer = SimpleNamespace(
        weight_bits=1, activation_scale=torch.tensor(2.0), weight=torch.zeros(1, 2),
        weight_scale=torch.zeros(1), bias=torch.zeros(1), estimator=None,
    )  # fmt: skip
    fit = SimpleNamespace(
        codes=torch.tensor([[1.0, -1.0]]),
        step=torch.ones(1, 1),
        scale=torch.tensor([3.0]),
        bias=torch.tensor([0.5]),
    )
    module._fill(layer, fit, torch.zeros(1, 2))
    assert layer.weight.sign().tolist() == [[1.0, -1.0]]
    assert layer.weight_scale.tolist() == [1.5]
    assert layer.bias.tolist() == [0.5]


@pytest.mark.parametrize("name", ["bibert", "bit", "bipft-b"])
def test_the_papers_starts_in_every_shape_of_a_block(make_model, shape, batches, name):
    """Of the weights alone, and of one batch: finite, and estimators add nothing or little."""
    torch.manual_seed(0)
    recipe = Recipe.load(name).model_dump() | FULL
    _, student, encoder = _start(make_model, shape, batches, recipe)
    for path, value in student.state_dict().items():
        assert torch.isfinite(value.float()).all(), path
    original = make_model(shape)
    use_blocks(original)
    for path, _ in encoder.linears():
        weight = get_module(original, path).weight
        assert torch.equal(get_module(student, path).weight.sign(), weight.sign())
    runner = LayerwiseRunner(student, encoder, batches[:1])
    for _ in encoder.calls:
        runner.advance()
    assert torch.isfinite(runner.calls[0].hidden).all()
