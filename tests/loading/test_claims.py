"""What a checkpoint claims is bounded, and whatever it holds ends in a model or in one sentence."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import BertConfig

from bipft_compress import loading
from bipft_compress.errors import CheckpointError, UserError
from bipft_compress.loading.claims import check_claims, check_layers, check_numbers
from bipft_compress.recipe import Recipe
from bipft_compress.reporting import report_from_config

WEIGHTS = "model.safetensors"
QUERY = "encoder.layer.1.attention.self.query.weight"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"num_hidden_layers": 4097}, "num_hidden_layers = 4097, more than the 4,096"),
        ({"n_heads": 10**9}, "n_heads"),
        ({"vocab_size": 10_000_001}, "vocab_size"),
        ({"deep": {"hidden_dim": 10**12}}, "hidden_dim"),
        ({"num_attention_heads": -1}, "num_attention_heads = -1, which is no number of modules"),
        ({"classifier_dropout": float("nan")}, "classifier_dropout = nan, which is no probability"),
        ({"hidden_dropout_prob": 1.5}, "hidden_dropout_prob = 1.5, which is no probability"),
    ],
)
def test_claims_beyond_any_model(values, says):
    with pytest.raises(CheckpointError, match=says):
        check_claims(values, "config.json")


def test_claims_of_real_models():
    check_claims({"num_hidden_layers": 4096, "vocab_size": 10**7, "rope_theta": 10**12}, "x")
    check_claims({"max_relative_positions": -1, "classifier_dropout": None, "dropout": 0}, "x")
    check_layers(BertConfig(num_hidden_layers=64), 3, "x")
    check_layers(BertConfig(num_hidden_layers=100), 100, "x")
    check_numbers(50_000_200, 100, "x")


def test_claims_beyond_a_file(make_checkpoint):
    with pytest.raises(CheckpointError, match="99 layers by its configuration, and its file holds"):
        check_layers(BertConfig(num_hidden_layers=99), 98, "x")
    with pytest.raises(CheckpointError, match="50,000,201 numbers by its configuration"):
        check_numbers(50_000_201, 100, "x")
    source = make_checkpoint("bert")
    path = source / "config.json"
    config = json.loads(path.read_text())
    for values in ({"num_hidden_layers": 4000}, {"intermediate_size": 10**6, "hidden_size": 36000}):
        path.write_text(json.dumps(config | values))
        with pytest.raises(CheckpointError, match="do not belong together"):
            loading.load_pretrained(source)


ODD = st.one_of(
    st.sampled_from([0, -1, 1, 7, 10**6, 10**12, 2**63, True, None, "text", "", float("nan")]),
    st.integers(-5, 200),
    st.floats(),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=1),
)
CONFIG = BertConfig(
    hidden_size=36, num_attention_heads=3, num_hidden_layers=2, intermediate_size=50,
    vocab_size=101, max_position_embeddings=40, architectures=["BertModel"],
).to_dict()  # fmt: skip


@given(key=st.sampled_from([*CONFIG, "num_labels", "quantization_config"]), value=ODD)
def test_any_configuration_is_counted_or_refused_in_a_sentence(tmp_path_factory, key, value):
    path = tmp_path_factory.mktemp("odd") / "config.json"
    path.write_text(json.dumps(CONFIG | {key: value}))
    with suppress(UserError):
        config = loading.load_config(path)
        with loading.configuration_faults(path):
            report_from_config(config, Recipe(), sequence_length=8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("number", "says"), [(float("nan"), "a NaN"), (float("inf"), "an infinite number")]
)
def test_weights_that_are_no_numbers_are_named(make_checkpoint, dtype, number, says):
    source = make_checkpoint("bert")
    state = {name: tensor.to(dtype) for name, tensor in load_file(source / WEIGHTS).items()}
    state[QUERY][3, 4] = number
    save_file(state, source / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"hold {says} in the tensor {QUERY}"):
        loading.load_pretrained(source)


def test_what_32_bits_cannot_hold_is_infinite(make_checkpoint):
    source = make_checkpoint("bert")
    state = {name: tensor.double() for name, tensor in load_file(source / WEIGHTS).items()}
    state[QUERY][3, 4] = 1e300
    save_file(state, source / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="of a type that 32 bits cannot hold"):
        loading.load_pretrained(source)


def test_code_of_a_checkpoint_is_neither_run_nor_asked_about(
    make_checkpoint, tmp_path, monkeypatch
):
    source = make_checkpoint("bert")
    (source / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    for name, value in {
        "config.json": {"AutoConfig": "evil.C", "AutoModel": "evil.M"},
        "tokenizer_config.json": {"AutoTokenizer": ["evil.T", None]},
    }.items():
        path = source / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": value}))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    model, tokenizer = loading.load_pretrained(source)
    assert type(model).__name__ == "BertModel"
    assert tokenizer("ab")["input_ids"][0] == 0
    # Without a model type that transformers knows, there is nothing else to read it by.
    path = source / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "evil"}))
    with pytest.raises(UserError):
        loading.load_pretrained(source)
    assert not (tmp_path / "ran").exists()
