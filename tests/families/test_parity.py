"""With blocks, every model of every family computes what transformers' own layers compute."""

from __future__ import annotations

import copy
import re

import pytest
import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from bipft_compress.families import describe, get_module, teacher_of, use_blocks
from bipft_compress.nn import Block

from ..conftest import LACKING, PAD, SIZES, VOCABULARY

NAMES = dir(transformers)
DECODERS = {"ForCausalLM"}
LENGTHS = (23, 14)
"""Longer than ModernBERT's window and than the distances that DeBERTa's buckets tell apart."""

TOLERANCE = {"atol": 2e-5, "rtol": 2e-5}


def heads_of(family: str) -> list[str]:
    """Every class that transformers has for a family, but for decoders, without its prefix."""
    prefix = SIZES[family][0]
    own = re.compile(rf"{prefix}(Model|For[A-Z]\w+)")
    found = [match[1] for name in NAMES if (match := own.fullmatch(name))]
    return [head for head in found if head not in DECODERS]


MODELS = [(family, head) for family in SIZES for head in heads_of(family)]

VARIANTS = {
    "albert, one group": ("albert", {"num_hidden_groups": 1}),
    "albert, two layers a group": ("albert", {"inner_group_num": 2}),
    "deberta, content to position": ("deberta", {"pos_att_type": ["c2p"]}),
    "deberta, position to content": ("deberta", {"pos_att_type": ["p2c"]}),
    "deberta, absolute": ("deberta", {"relative_attention": False, "pos_att_type": None}),
    "deberta, kinds without positions": ("deberta", {"relative_attention": False}),
    "deberta, a kind that is none": ("deberta", {"pos_att_type": ["c2p", "p2p"]}),
    "deberta, near positions": ("deberta", {"max_relative_positions": 6}),
    "deberta-v2, own projections": ("deberta-v2", {"share_att_key": False}),
    "deberta-v2, content to position": ("deberta-v2", {"pos_att_type": ["c2p"]}),
    "deberta-v2, position to content": ("deberta-v2", {"pos_att_type": ["p2c"]}),
    "deberta-v2, names in one string": ("deberta-v2", {"pos_att_type": "p2c|c2p"}),
    "deberta-v2, own p2c": ("deberta-v2", {"pos_att_type": ["p2c"], "share_att_key": False}),
    "deberta-v2, no kind": ("deberta-v2", {"pos_att_type": []}),
    "deberta-v2, absolute": (
        "deberta-v2",
        {"relative_attention": False, "pos_att_type": None, "position_biased_input": True},
    ),
    "deberta-v2, kinds without positions": ("deberta-v2", {"relative_attention": False}),
    "deberta-v2, a kind that is none": ("deberta-v2", {"pos_att_type": ["p2p", "p2c"]}),
    "deberta-v2, no buckets": ("deberta-v2", {"position_buckets": -1}),
    "deberta-v2, near positions": (
        "deberta-v2",
        {"position_buckets": -1, "max_relative_positions": 6},
    ),
    "deberta-v2, plain table": ("deberta-v2", {"norm_rel_ebd": "none"}),
    "deberta-v2, convolution": (
        "deberta-v2",
        {"conv_kernel_size": 3, "conv_act": "gelu", "num_hidden_layers": 3},
    ),
    "eurobert, a key for each query": ("eurobert", {"num_key_value_heads": 4}),
    "eurobert, a key for all": ("eurobert", {"num_key_value_heads": 1}),
    "eurobert, biases": ("eurobert", {"attention_bias": True, "mlp_bias": True}),
    "mobilebert, narrow values": ("mobilebert", {"use_bottleneck_attention": True}),
    "mobilebert, as wide": (
        "mobilebert",
        {"use_bottleneck": False, "intra_bottleneck_size": 36},
    ),
    "mobilebert, LayerNorm": ("mobilebert", {"normalization_type": "layer_norm"}),
    "mobilebert, one network": ("mobilebert", {"num_feedforward_networks": 1}),
    "modernbert, biases": (
        "modernbert",
        {"attention_bias": True, "mlp_bias": True, "norm_bias": True, "classifier_bias": True},
    ),
    "modernbert, all see all": (
        "modernbert",
        {"layer_types": ["full_attention"] * 4},
    ),
    "roformer, values turn": ("roformer", {"rotary_value": True}),
    "roformer, embeddings as wide": ("roformer", {"embedding_size": 36}),
    "xmod, norms first": ("xmod", {"pre_norm": True}),
    "xmod, norm of the adapter": ("xmod", {"adapter_layer_norm": True}),
    "xmod, norm of the layer": (
        "xmod",
        {"adapter_reuse_layer_norm": False, "ln_before_adapter": False},
    ),
    "xmod, norms first, norm of the adapter": (
        "xmod",
        {"pre_norm": True, "adapter_layer_norm": True, "adapter_reuse_layer_norm": False},
    ),
}
"""What configurations of one family may differ in, and blocks with them."""


def inputs(model: PreTrainedModel, head: str, *, padded: bool) -> dict[str, torch.Tensor]:
    """A batch of real tokens, of which the second text may be shorter."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(5, VOCABULARY - 1, (2, LENGTHS[0]), generator=generator)
    if model.config.model_type == "splinter":
        ids[:, 4] = model.config.question_token_id
    mask = torch.ones_like(ids)
    if padded:
        mask[1, LENGTHS[1] :] = 0
        ids[1, LENGTHS[1] :] = PAD
    if head == "ForMultipleChoice":
        # Two choices of one question.
        ids, mask = ids.unsqueeze(0), mask.unsqueeze(0)
    return {"input_ids": ids, "attention_mask": mask}


def assert_same(model: PreTrainedModel, original: PreTrainedModel, head: str) -> None:
    """Hidden states of every layer and all else that comes out, at real tokens."""
    for padded in (False, True):
        batch = inputs(model, head, padded=padded)
        if not padded:
            del batch["attention_mask"]
        with torch.no_grad():
            ours = model(**batch, output_hidden_states=True)
            theirs = original(**batch, output_hidden_states=True)
        assert ours.keys() == theirs.keys()
        real = inputs(model, head, padded=padded)["attention_mask"].flatten(0, -2).bool()
        assert len(ours.hidden_states) == len(theirs.hidden_states) > 1
        for name in ours.keys() - {"hidden_states"}:
            assert_close_at(ours[name], theirs[name], real, name)
        for number, pair in enumerate(zip(ours.hidden_states, theirs.hidden_states, strict=True)):
            assert_close_at(*pair, real, f"hidden states {number}")


def assert_close_at(
    ours: torch.Tensor, theirs: torch.Tensor, real: torch.Tensor, name: str
) -> None:
    assert ours.shape == theirs.shape, name
    if ours.shape[:2] == real.shape:
        ours, theirs = ours[real], theirs[real]
    torch.testing.assert_close(ours, theirs, **TOLERANCE, msg=lambda text: f"{name}: {text}")


@pytest.mark.parametrize(("family", "head"), MODELS, ids=map("-".join, MODELS))
def test_blocks_compute_what_layers_do(make_model, family, head):
    original = make_model(family, head)
    model = copy.deepcopy(original)
    encoder = use_blocks(model)
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    assert len(blocks) == len(encoder.layers)
    assert len(encoder.calls) == original.config.num_hidden_layers
    assert_same(model, original, head)


@pytest.mark.parametrize("variant", VARIANTS)
def test_blocks_compute_what_layers_do_in_every_variant(make_model, variant):
    family, config = VARIANTS[variant]
    original = make_model(family, **config)
    model = copy.deepcopy(original)
    use_blocks(model)
    assert_same(model, original, "Model")


def test_no_head_is_forgotten():
    """The heads that the suite asks of every family, and which families go without."""
    asked = {"ForMaskedLM", "ForSequenceClassification", "ForTokenClassification"}
    lacking = {family: asked - set(heads_of(family)) for family in SIZES}
    assert {family: heads for family, heads in lacking.items() if heads} == LACKING
    assert all("Model" in heads_of(family) for family in SIZES)


def test_a_teacher_shares_its_parameters(make_model, family):
    original = make_model(family)
    names, config = dict(original.named_parameters()), copy.deepcopy(original.config)
    before = {name: value.clone() for name, value in original.state_dict().items()}
    places = {value.untyped_storage().data_ptr() for value in original.parameters()}
    teacher = teacher_of(original)
    made = [
        name
        for name, value in teacher.named_parameters()
        if value.untyped_storage().data_ptr() not in places
    ]
    # DeBERTa's blocks hold projections of a table, and the first one's are fused head by head.
    computed = (
        r"attention\.core\.position_(key|query)|attention\.(query|key|value)\.weight"
        if family == "deberta"
        else r"attention\.core\.position_(key|query)"
    )
    assert all(re.search(rf"\.block\.({computed})$", name) for name in made)
    assert bool(made) == family.startswith("deberta")
    # The original is as it was: modules, parameters, numbers and configuration.
    assert not any(isinstance(module, Block) for module in original.modules())
    assert all(value is names[name] for name, value in original.named_parameters())
    assert all(torch.equal(value, before[name]) for name, value in original.state_dict().items())
    assert original.config.to_dict() == config.to_dict()
    assert original.config._attn_implementation == "eager"
    assert_same(teacher, original, "Model")


def test_blocks_stay_where_they_are(make_model, family):
    model = make_model(family)
    encoder = use_blocks(model)
    blocks = [get_module(model, layer.block) for layer in encoder.layers]
    assert use_blocks(model) == describe(model) == encoder
    assert all(
        get_module(model, layer.block) is block
        for layer, block in zip(encoder.layers, blocks, strict=True)
    )


def test_every_parameter_of_a_layer_is_in_its_block(make_model, family):
    """None is left out, and none is counted twice."""
    original = make_model(family)
    model = copy.deepcopy(original)
    encoder = use_blocks(model)
    before = {
        layer.path: sum(p.numel() for p in get_module(original, layer.path).parameters())
        for layer in encoder.layers
    }
    for layer in encoder.layers:
        shell = get_module(model, layer.path)
        computed = sum(p.numel() for p in get_module(model, layer.attention).parameters())
        # DeBERTa's projections of its table of distances become their results.
        projections = 2 * 36 * 36 + 36 if family == "deberta" else 0
        assert sum(p.numel() for p in shell.parameters()) - computed == (
            before[layer.path] - projections
        )
        assert all(isinstance(p, nn.Parameter) for p in shell.parameters())


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_model_of_another_attention_implementation(make_model, shape, implementation):
    original = make_model(shape)
    model = make_model(shape)
    if model._supports_sdpa:
        model.set_attn_implementation(implementation)
    use_blocks(model)
    assert_same(model, original, "Model")
