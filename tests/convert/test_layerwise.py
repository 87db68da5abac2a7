"""Walking a model layer by layer sees what the whole model sees."""

from __future__ import annotations

import pytest
import torch

from bipft_compress.convert.layerwise import LayerwiseRunner
from bipft_compress.families import describe, get_module


@pytest.fixture
def teacher(make_model, family):
    return make_model(family, "ForSequenceClassification")


@torch.no_grad()
def _whole(model, batch, paths):
    """Inputs and outputs of the modules at `paths` in one forward pass, and the hidden states."""
    seen = {}
    handles = [
        get_module(model, path).register_forward_hook(
            lambda _, args, output, path=path: seen.update({path: (args[0], output)})
        )
        for path in paths
    ]
    hidden = model(batch, output_hidden_states=True).hidden_states
    for handle in handles:
        handle.remove()
    return seen, hidden


def test_hidden_states_inputs_and_outputs_are_the_models(teacher, batches):
    encoder = describe(teacher)
    runner = LayerwiseRunner(teacher, encoder, batches)
    assert len(runner) == len(batches)
    for index, layer in enumerate(encoder.layers):
        paths = list(layer.linears.values())
        expected = [_whole(teacher, batch, paths) for batch in batches]
        for number, (modules, hidden) in enumerate(expected):
            torch.testing.assert_close(runner.hidden(number), hidden[index], atol=1e-5, rtol=1e-5)
            for path in paths:
                (got,) = runner.inputs(number, path)
                torch.testing.assert_close(got, modules[path][0], atol=1e-5, rtol=1e-5)
        recorded = runner.advance(record=paths)
        for outputs, (modules, _) in zip(recorded, expected, strict=True):
            assert set(outputs) == set(paths)
            for path in paths:
                assert outputs[path].dtype == torch.float16
                wanted = modules[path][1]
                torch.testing.assert_close(outputs[path].float(), wanted, atol=2e-3, rtol=2e-3)
    for number, (_, hidden) in enumerate(expected):
        torch.testing.assert_close(runner.hidden(number), hidden[-1], atol=1e-5, rtol=1e-5)


def test_hooks_are_gone_afterwards(teacher, batches):
    encoder = describe(teacher)
    runner = LayerwiseRunner(teacher, encoder, batches[:1])
    runner.inputs(0, encoder.layers[0].linears["ffn_down"])
    runner.advance(record=[encoder.layers[0].linears["query"]])
    for module in teacher.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_a_binary_model_walks_too(make_pair, family, batches):
    student, _, encoder, _, _ = make_pair(family)
    runner = LayerwiseRunner(student, encoder, batches)
    for _ in encoder.layers:
        runner.advance()
    with torch.no_grad():
        for number, batch in enumerate(batches):
            expected = student(batch).last_hidden_state
            torch.testing.assert_close(runner.hidden(number), expected, atol=1e-5, rtol=1e-5)
