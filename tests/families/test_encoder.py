"""Every family's parts are where the table says, and what cannot be made binary is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, GPT2Config

from bipft_compress.errors import UnsupportedModelError
from bipft_compress.families import (
    FAMILIES,
    LINEAR_KINDS,
    check_supported,
    describe,
    get_module,
    head_parameters,
    max_sequence_length,
    set_module,
)


def test_the_fixtures_cover_every_family(make_model):
    from_table = {make_model(name).config.model_type for name in FAMILIES}
    assert from_table == set(FAMILIES)


def test_parameters_of_heads_are_those_beside_the_backbone(make_model, family):
    assert head_parameters(make_model(family, "Model")) == []
    model = make_model(family, "ForMaskedLM")
    names = head_parameters(model)
    tied = f"{describe(model).decoder}.weight"
    assert names
    assert not [name for name in names if name == tied or name.startswith(model.base_model_prefix)]
    count = sum(model.get_parameter(name).numel() for name in names)
    assert count == model.num_parameters() - model.base_model.num_parameters()


@pytest.mark.parametrize("head", ["Model", "ForMaskedLM", "ForTokenClassification"])
def test_parts(make_model, family, head):
    model = make_model(family, head)
    encoder = describe(model)
    assert len(encoder.layers) == 2
    assert encoder.hidden_size == encoder.heads * encoder.head_dim
    assert (encoder.heads, encoder.head_dim) in {(3, 12), (4, 10), (4, 9)}
    found = list(encoder.linears())
    assert len(found) == 12
    assert len({path for _, _, path in found}) == 12
    assert [kind for _, kind, _ in found] == 2 * list(LINEAR_KINDS)
    width = encoder.hidden_size
    shapes = {"ffn_up": (50, width), "ffn_down": (width, 50)}
    for index, kind, path in found:
        weight = get_module(model, path).weight
        assert tuple(weight.shape) == shapes.get(kind, (width, width))
        assert path.startswith(encoder.layers[index].path + ".")
    # Every linear layer within the encoder layers is found, none is forgotten.
    inside = {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and any(name.startswith(layer.path + ".") for layer in encoder.layers)
    }
    assert inside == {path for _, _, path in found}
    norms = {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.LayerNorm) and name.startswith(encoder.layers[1].path + ".")
    }
    assert norms == {encoder.layers[1].attention_norm, encoder.layers[1].output_norm}
    assert encoder.activation == "gelu"
    assert get_module(model, encoder.word_embeddings).num_embeddings == 101
    # With the word embeddings, all embedding tables are named.
    tables = {n for n, m in model.named_modules() if isinstance(m, nn.Embedding)}
    assert tables == {encoder.word_embeddings, *encoder.embeddings_kept}
    assert (encoder.decoder is not None) == (head == "ForMaskedLM")
    if encoder.decoder is not None:
        tied = get_module(model, encoder.decoder).weight
        assert tied is get_module(model, encoder.word_embeddings).weight


def test_pooler_and_untied_decoder(make_model):
    assert describe(make_model("bert")).pooler == "pooler.dense"
    assert describe(make_model("bert", "ForMaskedLM")).pooler is None
    assert describe(make_model("bert", "ForSequenceClassification")).pooler == "bert.pooler.dense"
    assert describe(make_model("distilbert")).pooler is None
    untied = make_model("bert", "ForMaskedLM", tie_word_embeddings=False)
    assert describe(untied).decoder is None


def test_query_reads_what_attention_calls_it(make_model, family):
    """The named query, key and value are the ones whose outputs the scores are made of."""
    model = make_model(family)
    encoder = describe(model)
    ids = torch.arange(5, 14)[None]
    seen = {}
    for kind in ("query", "key", "value"):
        get_module(model, encoder.layers[0].linears[kind]).register_forward_hook(
            lambda _, __, output, kind=kind: seen.update({kind: output.detach()})
        )
    with torch.no_grad():
        attention = model(ids, output_attentions=True).attentions[0]
    q, k, _ = (
        seen[kind].unflatten(-1, (encoder.heads, -1)).transpose(1, 2)
        for kind in ("query", "key", "value")
    )
    expected = (q @ k.transpose(-1, -2) / encoder.head_dim**0.5).softmax(-1)
    torch.testing.assert_close(attention, expected, atol=1e-5, rtol=1e-4)


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
    with pytest.raises(UnsupportedModelError, match="unusual layout"):
        describe(model)
    no_layers = BertModel(BertConfig(hidden_size=12, num_attention_heads=2, vocab_size=9))
    del no_layers.encoder.layer
    with pytest.raises(UnsupportedModelError, match="layer"):
        describe(no_layers)


def test_set_module():
    root = nn.Sequential(nn.Sequential(nn.Linear(1, 1)), nn.ReLU())
    new = nn.Linear(2, 2)
    set_module(root, "0.0", new)
    assert get_module(root, "0.0") is new
    set_module(root, "1", nn.Tanh())
    assert isinstance(root[1], nn.Tanh)


def test_positions_of_roberta_begin_after_the_padding(make_model):
    assert max_sequence_length(make_model("bert").config) == 40
    for family in ("roberta", "xlm-roberta", "camembert"):
        assert max_sequence_length(make_model(family).config) == 38
