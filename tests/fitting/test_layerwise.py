"""Walking a model layer by layer sees what the whole model sees."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from bipft_compress.families import get_module, use_blocks
from bipft_compress.fitting.layerwise import Call, LayerwiseRunner


@pytest.fixture
def teacher(make_model, family):
    """Of a class with a head, where the family has one."""
    head = "Model" if family == "splinter" else "ForSequenceClassification"
    model = make_model(family, head)
    use_blocks(model)
    return model


@torch.no_grad()
def _whole(model, encoder, batch):
    """Of each call of a layer in one forward pass: path to input and output, of it and below."""
    calls, handles = [], []

    def before(_, args, kwargs):
        calls.append({"": [args[0] if args else kwargs["hidden_states"]]})

    def after(_, __, output, name):
        hidden = output[0] if isinstance(output, tuple) else output
        if name:
            calls[-1][name].append(hidden)
        else:
            calls[-1][""].append(hidden)

    def below(_, args, name):
        calls[-1][name] = [args[0]]

    for layer in encoder.layers:
        module = get_module(model, layer.path)
        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        for name in ("", *_names(layer)):
            place = module.get_submodule(name)
            if name:
                handles.append(place.register_forward_pre_hook(partial(below, name=name)))
            handles.append(place.register_forward_hook(partial(after, name=name)))
    hidden = model(batch, output_hidden_states=True).hidden_states
    for handle in handles:
        handle.remove()
    return calls, hidden


def _names(layer):
    return [f"block.{linear.name}" for linear in layer.spec.linears()]


def test_hidden_states_inputs_and_outputs_are_the_models(teacher, batches):
    encoder = use_blocks(teacher)
    runner = LayerwiseRunner(teacher, encoder, batches)
    assert len(runner.calls) == len(batches)
    whole = [_whole(teacher, encoder, batch) for batch in batches]
    for step, number in enumerate(encoder.calls):
        layer = encoder.layers[number]
        module = get_module(teacher, layer.path)
        assert runner.layer is module
        names = _names(layer)
        for call, (calls, hidden) in zip(runner.calls, whole, strict=True):
            torch.testing.assert_close(call.hidden, hidden[step], atol=1e-5, rtol=1e-5)
            for name in names:
                (got,) = call.inputs(module, module.get_submodule(name))
                torch.testing.assert_close(got, calls[step][name][0], atol=1e-5, rtol=1e-5)
        recorded = runner.advance(record=names)
        for outputs, (calls, _) in zip(recorded, whole, strict=True):
            assert set(outputs) == set(names)
            for name in names:
                assert outputs[name].dtype == torch.float16
                wanted = calls[step][name][1]
                torch.testing.assert_close(outputs[name].float(), wanted, atol=2e-3, rtol=2e-3)
        for call, (calls, _) in zip(runner.calls, whole, strict=True):
            torch.testing.assert_close(call.hidden, calls[step][""][1], atol=1e-5, rtol=1e-5)


def test_what_half_precision_cannot_hold_is_kept_as_it_is(make_model, batches):
    model = make_model("bert")
    encoder = use_blocks(model)
    name = _names(encoder.layers[0])[0]
    with torch.no_grad():
        get_module(model, encoder.layers[0].path).get_submodule(name).bias[0] = 1e5
    runner = LayerwiseRunner(model, encoder, batches)
    for outputs in runner.advance(record=[name]):
        assert outputs[name].dtype == torch.float32
        assert outputs[name].max() > 9e4


def test_hooks_are_gone_afterwards(teacher, batches):
    encoder = use_blocks(teacher)
    before = _hooks(teacher)
    runner = LayerwiseRunner(teacher, encoder, batches[:1])
    name = _names(encoder.layers[0])[-1]
    runner.calls[0].inputs(runner.layer, runner.layer.get_submodule(name))
    runner.advance(record=[name])
    assert _hooks(teacher) == before


def _hooks(model) -> list[int]:
    """Numbers of all hooks: `use_blocks` leaves its own checks of what a model is called with."""
    modules = list(model.modules())
    return [number for m in modules for number in (*m._forward_hooks, *m._forward_pre_hooks)]


def test_hooks_are_gone_after_a_fault(make_model, batches):
    model = make_model("bert")
    encoder = use_blocks(model)
    before = _hooks(model)
    runner = LayerwiseRunner(model, encoder, batches)
    block = get_module(model, encoder.layers[0].block)
    block.feed_forward[0].down = nn.Linear(3, 3)
    names = _names(encoder.layers[0])
    with pytest.raises(RuntimeError, match="shapes"):
        runner.advance(record=names)
    last = block.get_submodule("feed_forward.0.norm")
    with pytest.raises(RuntimeError, match="shapes"):
        runner.calls[0].inputs(get_module(model, encoder.layers[0].path), last)
    assert _hooks(model) == before


def test_nothing_runs_from_the_module_that_is_asked_for(make_model, batches):
    model = make_model("bert")
    encoder = use_blocks(model)
    runner = LayerwiseRunner(model, encoder, batches)
    layer = runner.layer
    for name in ("block.attention.output", "block.feed_forward.0.up"):
        layer.get_submodule(name).register_forward_hook(lambda *_: pytest.fail("it ran"))
    args = runner.calls[0].inputs(layer, layer.get_submodule("block.attention.output"))
    assert args[0].shape == (6, 9, 36)


def test_a_call_at_other_hidden_states():
    class Layer(nn.Module):
        def forward(self, hidden, twice, plus=0.0):
            return (hidden * twice + plus, None)

    call = Call(torch.ones(1), (2.0,), {"plus": 1.0})
    assert call.run(Layer()).item() == 3.0
    assert call.at(torch.zeros(1)).run(Layer()).item() == 1.0
    assert call.run(Layer()).item() == 3.0


def test_a_binary_model_walks_too(make_random_pair, family, batches):
    student, _, encoder, _, _ = make_random_pair(family)
    runner = LayerwiseRunner(student, encoder, batches)
    for _ in encoder.calls:
        runner.advance()
    for call, batch in zip(runner.calls, batches, strict=True):
        calls, _ = _whole(student, encoder, batch)
        torch.testing.assert_close(call.hidden, calls[-1][""][1], atol=1e-5, rtol=1e-5)
