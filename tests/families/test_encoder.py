"""Every family's parts are found, and what cannot be made binary is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, GPT2Config

from bipft_compress.errors import UnsupportedModelError
from bipft_compress.families import (
    FAMILIES,
    check_supported,
    describe,
    get_module,
    head_parameters,
    max_sequence_length,
    set_module,
    use_blocks,
)
from bipft_compress.nn import Affine, Block, FullAttention

from ..conftest import SIZES

UNTIED = {"rembert", "eurobert"}
"""Families whose output layer is a table of its own."""

NORMS = (nn.LayerNorm, nn.RMSNorm, Affine)


def test_the_fixtures_cover_every_family(make_model):
    from_table = {make_model(name).config.model_type for name in FAMILIES}
    assert from_table == set(FAMILIES)


def test_parameters_of_heads_are_those_beside_the_backbone(make_model, family):
    assert head_parameters(make_model(family, "Model")) == []
    model = make_model(family, "ForMaskedLM")
    names = head_parameters(model)
    assert (describe(model).decoder is None) == (family in UNTIED)
    tied = f"{describe(model).decoder}.weight"
    assert names
    assert not [name for name in names if name == tied or name.startswith(model.base_model_prefix)]
    count = sum(model.get_parameter(name).numel() for name in names)
    assert count == model.num_parameters() - model.base_model.num_parameters()


BERT_KINDS = ["query", "key", "value", "attention_output", "ffn_up", "ffn_down"]
GATED_KINDS = [*BERT_KINDS[:5], "ffn_gate", "ffn_down"]
NARROW_KINDS = [
    "bottleneck", "bottleneck", "value", "query", "key", "attention_output",
    "ffn_up", "ffn_down", "ffn_up", "ffn_down", "bottleneck",
]  # fmt: skip
KINDS = dict.fromkeys(("modernbert", "nomic_bert", "eurobert"), GATED_KINDS)
KINDS["mobilebert"] = NARROW_KINDS
"""Of the linears of a layer, where they are not BERT's."""


@pytest.mark.parametrize("head", ["Model", "ForMaskedLM", "ForTokenClassification"])
def test_parts(make_model, family, head):
    model = make_model(family, head)
    before = describe(model)
    encoder = use_blocks(model)
    assert before.layers == encoder.layers
    layers = 4 if family == "modernbert" else 2
    assert len(encoder.layers) == layers
    config = model.config
    assert encoder.hidden_size == config.hidden_size
    kinds = KINDS.get(family, BERT_KINDS)
    found = list(encoder.linears())
    assert [linear.kind for _, linear in found] == layers * kinds
    assert len({path for path, _ in found}) == len(found)
    narrow = 24 if family == "mobilebert" else config.hidden_size
    keys = 24 if family == "eurobert" else narrow
    shapes = {
        "key": (keys, narrow),
        "value": (keys, config.hidden_size),
        "ffn_up": (50, narrow),
        "ffn_gate": (50, narrow),
        "ffn_down": (narrow, 50),
    }
    for number, layer in enumerate(encoder.layers):
        for path, linear in layer.linears():
            assert path.startswith(f"{layer.path}.block.")
            shape = shapes.get(linear.kind, (narrow, narrow))
            if linear.kind == "bottleneck":
                shape = (narrow, 36) if "output" not in path else (36, narrow)
            assert tuple(get_module(model, path).weight.shape) == shape
        block = get_module(model, layer.block)
        assert isinstance(block, Block)
        assert block.spec == layer.spec
        assert isinstance(get_module(model, layer.attention), FullAttention)
        # ModernBERT's first layer has the norm of the embeddings before its attention.
        norms = set(layer.spec.norms())
        assert norms == {n for n, m in block.named_modules() if isinstance(m, NORMS)}
        assert ("attention.norm" in norms) == (family != "modernbert" or number > 0)
        attention = layer.spec.attention
        assert attention.heads * attention.head_dim == narrow
        assert {part.activation for part in layer.spec.feed_forward} == {config_activation(config)}
    # Every linear layer within the encoder layers is found, none is forgotten.
    inside = {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and any(name.startswith(layer.path + ".") for layer in encoder.layers)
        and "adapter_modules" not in name
    }
    assert inside == {path for path, _ in found}
    assert get_module(model, encoder.word_embeddings).num_embeddings == 101
    # With the word embeddings, all embedding tables are named.
    tables = {n for n, m in model.named_modules() if isinstance(m, nn.Embedding)}
    assert tables == {encoder.word_embeddings, *encoder.embeddings_kept}
    assert (encoder.decoder is not None) == (head == "ForMaskedLM" and family not in UNTIED)
    if encoder.decoder is not None:
        tied = get_module(model, encoder.decoder).weight
        assert tied is get_module(model, encoder.word_embeddings).weight


def config_activation(config) -> str:
    names = ("hidden_act", "hidden_activation", "activation")
    return next(getattr(config, name) for name in names if hasattr(config, name))


def test_layers_are_called_in_the_order_of_the_model(make_model, family):
    """Each as often as transformers calls it, ALBERT's again and again."""
    model = make_model(family)
    encoder, called = describe(model), []
    for number, layer in enumerate(encoder.layers):
        get_module(model, layer.path).register_forward_pre_hook(
            lambda *_, number=number: called.append(number)
        )
    model(torch.arange(5, 14)[None])
    assert tuple(called) == encoder.calls
    assert len(called) == model.config.num_hidden_layers


@pytest.mark.parametrize(
    ("depth", "groups", "inner"), [(4, 2, 1), (5, 2, 1), (4, 3, 1), (3, 1, 2), (4, 2, 2), (6, 4, 3)]
)
def test_calls_of_alberts_groups(make_model, depth, groups, inner):
    model = make_model(
        "albert", num_hidden_layers=depth, num_hidden_groups=groups, inner_group_num=inner
    )
    encoder, called = use_blocks(model), []
    assert len(encoder.layers) == groups * inner
    for number, layer in enumerate(encoder.layers):
        get_module(model, layer.path).register_forward_pre_hook(
            lambda *_, number=number: called.append(number)
        )
    model(torch.arange(5, 14)[None])
    assert tuple(called) == encoder.calls
    assert len(called) == depth * inner


def test_pooler_and_untied_decoder(make_model):
    assert describe(make_model("bert")).pooler == "pooler.dense"
    assert describe(make_model("bert", "ForMaskedLM")).pooler is None
    assert describe(make_model("bert", "ForSequenceClassification")).pooler == "bert.pooler.dense"
    assert describe(make_model("distilbert")).pooler is None
    untied = make_model("bert", "ForMaskedLM", tie_word_embeddings=False)
    assert describe(untied).decoder is None


def test_probabilities_are_those_of_the_model(make_model, family):
    """The attention of a block is called with what transformers' own scores are made of."""
    original = make_model(family)
    model = make_model(family)
    encoder, seen = use_blocks(model), []
    for layer in encoder.layers:
        core = get_module(model, layer.attention)
        core.register_forward_pre_hook(
            lambda core, args: seen.append(core.probabilities(*args[:2], *args[3:5]))
        )
    ids = torch.arange(5, 26)[None]
    with torch.no_grad():
        expected = original(ids, output_attentions=True).attentions
        model(ids)
    assert len(seen) == len(expected) == len(encoder.calls)
    for ours, theirs in zip(seen, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (GPT2Config(), "gpt2"),
        (BertConfig(is_decoder=True), "is_decoder"),
        (BertConfig(add_cross_attention=True), "cross-attention"),
    ],
)
def test_what_is_no_encoder_is_refused(config, named):
    with pytest.raises(UnsupportedModelError, match=named) as error:
        check_supported(config)
    assert str(error.value).endswith(".")


def test_an_unusual_layout_is_refused(make_model):
    model = make_model("bert")
    del model.encoder.layer[1].intermediate.dense
    for read in (describe, use_blocks):
        with pytest.raises(UnsupportedModelError, match="unusual layout"):
            read(model)
    # Nothing was changed by the one that changes.
    assert not any(isinstance(module, Block) for module in model.modules())
    narrow = make_model("bert")
    narrow.encoder.layer[0].output.dense = nn.Linear(50, 35)
    with pytest.raises(UnsupportedModelError, match=r"feed_forward\.0\."):
        describe(narrow)
    heads = make_model("deberta")
    heads.encoder.layer[0].attention.self.talking_head = True
    with pytest.raises(UnsupportedModelError, match="talking heads"):
        describe(heads)
    no_layers = BertModel(BertConfig(hidden_size=12, num_attention_heads=2, vocab_size=9))
    del no_layers.encoder.layer
    with pytest.raises(UnsupportedModelError, match="has no BertLayer"):
        describe(no_layers)


def test_set_module():
    root = nn.Sequential(nn.Sequential(nn.Linear(1, 1)), nn.ReLU())
    new = nn.Linear(2, 2)
    set_module(root, "0.0", new)
    assert get_module(root, "0.0") is new
    set_module(root, "1", nn.Tanh())
    assert isinstance(root[1], nn.Tanh)


def test_positions_of_roberta_begin_after_the_padding(make_model):
    after = {
        "roberta", "xlm-roberta", "camembert", "data2vec-text", "roberta-prelayernorm",
        "xlm-roberta-xl", "xmod", "mpnet",
    }  # fmt: skip
    for family in SIZES:
        model = make_model(family)
        longest = max_sequence_length(model.config)
        assert longest == (38 if family in after else 40)
        ids = torch.full((1, longest), 7)
        with torch.no_grad():
            assert model(ids).last_hidden_state.shape[1] == longest
        embeddings = getattr(model, "embeddings", None)
        if isinstance(getattr(embeddings, "position_embeddings", None), nn.Embedding):
            with pytest.raises((IndexError, RuntimeError)):
                model(torch.full((1, longest + 1), 7))
