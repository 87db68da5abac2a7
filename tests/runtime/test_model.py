"""A packed model computes what the training model does, in every family and for every recipe."""

from __future__ import annotations

import copy
import logging

import pytest
import torch

from bipft_compress.runtime.block import PackedBlock, _say_once
from bipft_compress.runtime.native import PATH_VARIABLE, REFERENCE

from ..packing import EVERYTHING, RANKS

RECIPES = {
    "default": {},
    "everything": EVERYTHING,
    "sign": {"embeddings": {"code": "sign"}, "estimators": {"scores": 2}},
    "bi-attention": {"activations": {"attention": "boolean"}, "estimators": {"value": 2}},
    "estimators of hidden states": {
        "estimators": {"scores": 2, "context": 1, "attention_reads": "hidden-states"}
    },
    "full": {
        "embeddings": {"code": "full"},
        "kept": {"vectors": 32, "position_embeddings": 32, "pooler": 16},
        "estimators": RANKS | {"context": 2, "bits": 32},
    },
}
CLOSE = {"atol": 1e-5, "rtol": 0}


def test_layers_run_on_the_path_asked_for(make_binary, pack_in_memory, path):
    _, packed = pack_in_memory(make_binary("bert"))
    assert [m.path for m in packed.modules() if isinstance(m, PackedBlock)] == [path, path]


def _both(pair, packed, batch):
    with torch.no_grad():
        ours = packed(**batch, output_hidden_states=True)
        theirs = pair.student(**batch, output_hidden_states=True)
    return ours, theirs


def _assert_same(ours, theirs, batch):
    """The same at real tokens; what padding reads is nobody's concern."""
    real = batch["attention_mask"].bool()
    assert len(ours.hidden_states) == len(theirs.hidden_states) >= 3
    for mine, other in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        torch.testing.assert_close(mine[real], other[real], **CLOSE)
    for key in theirs:
        if key != "hidden_states":
            mine, other = ours[key], theirs[key]
            if mine.shape[:2] == real.shape:
                mine, other = mine[real], other[real]
            torch.testing.assert_close(mine, other, atol=1e-4, rtol=0)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_family_and_recipe(make_binary, pack_in_memory, path, family, recipe, padded):
    pair = make_binary(family, recipe=RECIPES[recipe])
    _, packed = pack_in_memory(pair, RECIPES[recipe])
    assert type(packed) is type(pair.student)
    _assert_same(*_both(pair, packed, padded), padded)


@pytest.mark.parametrize("key_value_bits", [1, 2, 4, 8])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_every_width_of_codes(make_binary, pack_in_memory, path, bits, key_value_bits, padded):
    recipe = {"activations": {"bits": bits, "key_value_bits": key_value_bits}}
    pair = make_binary("bert", recipe=recipe)
    _, packed = pack_in_memory(pair, recipe)
    _assert_same(*_both(pair, packed, padded), padded)


@pytest.mark.parametrize(
    "head", ["ForMaskedLM", "ForSequenceClassification", "ForTokenClassification"]
)
@pytest.mark.parametrize("code", ["full", "frequency-aware"])
def test_heads(make_binary, pack_in_memory, family, head, code, padded):
    recipe = {"embeddings": {"code": code}}
    pair = make_binary(family, head, recipe)
    _, packed = pack_in_memory(pair, recipe)
    _assert_same(*_both(pair, packed, padded), padded)


def test_heads_for_pretraining(make_binary, pack_in_memory, padded):
    pair = make_binary("bert", "ForPreTraining")
    _, packed = pack_in_memory(pair)
    _assert_same(*_both(pair, packed, padded), padded)


def test_padding_does_not_leak(make_binary, pack_in_memory, path, family, padded):
    if family == "mobilebert":
        pytest.skip("its embeddings read the next token, padding too, in the original as well")
    recipe = EVERYTHING
    _, packed = pack_in_memory(make_binary(family, recipe=recipe), recipe)
    with torch.no_grad():
        together = packed(**padded).last_hidden_state
        for row, length in enumerate(padded["attention_mask"].sum(1).tolist()):
            alone = packed(padded["input_ids"][row : row + 1, :length]).last_hidden_state
            torch.testing.assert_close(together[row, :length], alone[0], **CLOSE)
        other = {**padded, "input_ids": padded["input_ids"].clone()}
        other["input_ids"][0, 9:] = 44
        if packed.config.model_type not in ("roberta", "xlm-roberta", "camembert"):
            # Those read positions off the padding tokens themselves.
            changed = packed(**other).last_hidden_state
            assert torch.equal(changed[0, :9], together[0, :9])


def test_a_sequence_of_padding_alone(make_binary, pack_in_memory, path, padded):
    pair = make_binary("bert")
    _, packed = pack_in_memory(pair)
    batch = {**padded, "attention_mask": padded["attention_mask"].clone()}
    batch["attention_mask"][2] = 0
    _assert_same(*_both(pair, packed, batch), batch)


CAUSAL = torch.ones(14, 14).tril().bool().expand(3, 1, 14, 14)
OTHER_MASKS = {
    "pairs": CAUSAL,
    "added": torch.zeros(3, 1, 14, 14).masked_fill(~CAUSAL, torch.finfo(torch.float32).min),
    "a bias": torch.linspace(-1, 1, 14).expand(3, 1, 14, 14),
    "a bias of keys": torch.linspace(-1, 1, 14).expand(3, 1, 1, 14),
}


@pytest.mark.parametrize("kind", OTHER_MASKS)
def test_other_masks_run_on_the_reference(make_binary, pack_in_memory, path, padded, kind):
    pair = make_binary("bert")
    _, packed = pack_in_memory(pair)
    ids, mask = padded["input_ids"], OTHER_MASKS[kind]
    with torch.no_grad():
        ours, theirs = (m(ids, attention_mask=mask)[0] for m in (packed, pair.student))
        without = packed(ids)[0]
    torch.testing.assert_close(ours, theirs, **CLOSE)
    assert not torch.equal(ours, without)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_run_on_the_reference(make_binary, pack_in_memory, shape, dtype, padded):
    """In any type the packed model computes what the training model does in that type."""
    recipe = {"embeddings": {"code": "sign"}, "kept": {"vectors": 32, "position_embeddings": 32}}
    pair = make_binary(shape, recipe=recipe)
    _, packed = pack_in_memory(pair, recipe)
    packed.to(dtype)
    assert {m.path for m in packed.modules() if isinstance(m, PackedBlock)} == {REFERENCE}
    student = copy.deepcopy(pair.student).to(dtype)
    real = padded["attention_mask"].bool()
    with torch.no_grad():
        ours, theirs = (m(**padded).last_hidden_state[real] for m in (packed, student))
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    packed.to(torch.float32)
    assert REFERENCE not in {m.path for m in packed.modules() if isinstance(m, PackedBlock)}


def test_on_another_device_it_runs_on_the_reference(make_binary, pack_in_memory, shape, caplog):
    if shape == "roformer":
        pytest.skip("transformers makes a mask for it and looks at the values")
    _, packed = pack_in_memory(make_binary(shape))
    _say_once.cache_clear()
    with caplog.at_level(logging.INFO, "bipft_compress"):
        packed.to("meta")
        packed.config.pad_token_id = (
            None  # else transformers looks at the ids, which have no values
        )
        hidden = packed(torch.ones(2, 9, dtype=torch.long, device="meta")).last_hidden_state
    assert hidden.is_meta
    assert caplog.text.count("no kernels for meta") == 1


def test_memory_is_that_of_the_bits(make_binary, pack_in_memory, monkeypatch):
    monkeypatch.setenv(PATH_VARIABLE, REFERENCE)
    pair = make_binary("bert", recipe=EVERYTHING)
    tensors, packed = pack_in_memory(pair, EVERYTHING)
    bits = {t.data_ptr() for t in tensors.values() if t.dtype == torch.uint8}
    held = {t.data_ptr() for t in packed.buffers()}
    assert bits <= held
    # No table or weight of the original is held in floating point beside them.
    original = {p.shape for p in pair.teacher.parameters() if p.dim() == 2 and min(p.shape) > 3}
    numbers = [t for t in (*packed.parameters(), *packed.buffers()) if t.is_floating_point()]
    assert not [t.shape for t in numbers if t.shape in original]
    assert not [p for p in packed.parameters() if p.requires_grad]
    assert len([m for m in packed.modules() if isinstance(m, PackedBlock)]) == 2


def test_a_copy_is_a_model_of_its_own(make_binary, pack_in_memory, padded, monkeypatch):
    monkeypatch.setenv(PATH_VARIABLE, REFERENCE)
    _, packed = pack_in_memory(make_binary("bert"))
    copied = copy.deepcopy(packed)
    with torch.no_grad():
        before = packed(**padded)[0]
        assert torch.equal(copied(**padded)[0], before)
        copied.encoder.layer[0].block.attention.query.weight.zero_()
        copied.to(torch.device("cpu"))
        assert not torch.equal(copied(**padded)[0], before)
        assert torch.equal(packed(**padded)[0], before)


def test_compile_and_export_see_one_operator_a_layer(make_binary, pack_in_memory, padded):
    _, packed = pack_in_memory(make_binary("bert"))

    class Hidden(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = packed

        def forward(self, input_ids, attention_mask):
            return self.model(input_ids, attention_mask=attention_mask).last_hidden_state

    inputs = padded["input_ids"], padded["attention_mask"]
    with torch.no_grad():
        expected = Hidden()(*inputs)
        compiled = torch.compile(Hidden(), backend="aot_eager", fullgraph=True)
        assert torch.equal(compiled(*inputs), expected)
        exported = torch.export.export(Hidden(), inputs)
        assert torch.equal(exported.module()(*inputs), expected)
    called = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
    assert sum("encoder_block" in name for name in called) == 2
