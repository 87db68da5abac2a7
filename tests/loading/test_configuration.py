"""Configurations: what class they name, and that nothing in them runs code."""

from __future__ import annotations

import builtins
import json
import logging

import pytest
import torch
import transformers
from transformers import GPT2Config

from bipft_compress import loading
from bipft_compress.errors import CheckpointError, UnsupportedModelError
from bipft_compress.loading.configuration import model_class


def _edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("head", ["Model", "ForMaskedLM", "ForSequenceClassification"])
def test_the_class_of_every_family_is_found(make_model, family, head):
    model = make_model(family, head)
    model.config.architectures = [type(model).__name__]
    assert model_class(model.config) is type(model)


@pytest.mark.parametrize("names", [None, []])
def test_no_class_is_the_bare_encoder(make_model, family, names, caplog):
    model = make_model(family)
    model.config.architectures = names
    with caplog.at_level(logging.INFO, "bipft_compress"):
        assert model_class(model.config) is type(model)
    assert f"the bare encoder is read, {type(model).__name__}" in caplog.text


def test_a_class_of_someone_elses_is_the_bare_encoder(write_checkpoint, tmp_path, caplog):
    original = write_checkpoint(tmp_path, "bert", "ForMaskedLM")
    _edit(tmp_path / "config.json", architectures=["BertForSentenceRanking"])
    with caplog.at_level(logging.WARNING, "bipft_compress"):
        model, _ = loading.load_pretrained(tmp_path)
    assert "transformers has no class BertForSentenceRanking" in caplog.text
    assert type(model) is transformers.BertModel
    ids = torch.tensor([[0, 7, 2]])
    with torch.no_grad():
        assert torch.equal(model(ids)[0], original.bert(ids)[0])


@pytest.mark.parametrize(
    "name",
    [
        "AutoModel",
        "BertConfig",
        "GPT2LMHeadModel",
        "RobertaModel",
        "BertPreTrainedModel",
        "PreTrainedModel",
        "BertLayer",
        "BertTokenizer",
        "nn",
        "logger",
        "models",
    ],
)
def test_something_else_of_transformers_is_refused(write_checkpoint, tmp_path, name):
    write_checkpoint(tmp_path)
    _edit(tmp_path / "config.json", architectures=[name])
    says = rf"class {name} \(architectures\), which is no model of type 'bert': name one such as"
    with pytest.raises(CheckpointError, match=says):
        loading.load_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=says):
        loading.model_from_config(loading.load_config(tmp_path))


@pytest.mark.parametrize("names", ["BertModel", ["BertModel", "BertForMaskedLM"], [3], {}, [[]]])
def test_a_malformed_list_of_classes_is_refused(write_checkpoint, tmp_path, names):
    write_checkpoint(tmp_path)
    _edit(tmp_path / "config.json", architectures=names)
    for mlm_head in (False, True):
        with pytest.raises(CheckpointError, match="a list of one class name"):
            loading.load_pretrained(tmp_path, mlm_head=mlm_head)


CODE = """
from pathlib import Path
from transformers import BertConfig, BertModel, BertTokenizer
Path(__file__).with_name("ran").touch()
class Mine(BertConfig): pass
"""


@pytest.mark.parametrize("model_type", ["bert", "mine"])
def test_code_beside_a_checkpoint_never_runs(write_checkpoint, tmp_path, monkeypatch, model_type):
    write_checkpoint(tmp_path)
    (tmp_path / "mine.py").write_text(CODE)
    classes = ("AutoConfig", "AutoModel", "AutoModelForMaskedLM")
    for file, names in (("config.json", classes), ("tokenizer_config.json", ("AutoTokenizer",))):
        _edit(tmp_path / file, auto_map=dict.fromkeys(names, "mine.Mine"))
    _edit(tmp_path / "config.json", model_type=model_type)

    def asked(*_):
        raise AssertionError("a question was asked")

    monkeypatch.setattr(builtins, "input", asked)
    if model_type == "bert":
        for mlm_head in (False, True):
            loading.load_pretrained(tmp_path, mlm_head=mlm_head)
        loading.load_config(tmp_path / "config.json")
    else:
        with pytest.raises(CheckpointError, match="cannot be read"):
            loading.load_pretrained(tmp_path)
        with pytest.raises(UnsupportedModelError, match="no model type"):
            loading.load_config(tmp_path / "config.json")
    assert not list(tmp_path.glob("**/ran"))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"hidden_size": "x"}, "'hidden_size'"),
        ({"num_hidden_layers": 2.5}, "'num_hidden_layers'"),
        ({"id2label": [1]}, "cannot be read"),
        ({"dtype": "no such"}, "cannot be read"),
    ],
)
def test_a_value_of_another_type_is_told(write_checkpoint, tmp_path, values, says):
    write_checkpoint(tmp_path)
    _edit(tmp_path / "config.json", **values)
    for path in (tmp_path, tmp_path / "config.json"):
        with pytest.raises(CheckpointError, match=says) as error:
            loading.load_config(path)
        assert "cannot be read" in str(error.value)
        assert "\n" not in str(error.value)


def test_what_is_no_configuration_is_told(tmp_path):
    GPT2Config().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="gpt2"):
        loading.load_config(tmp_path / "config.json")
    for model_type in ("no-such-thing", None, 3):
        (tmp_path / "odd.json").write_text(json.dumps({"model_type": model_type}))
        with pytest.raises(UnsupportedModelError, match="no model type"):
            loading.load_config(tmp_path / "odd.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not valid JSON"):
        loading.load_config(tmp_path)
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE"):
        loading.load_config("nobody/no-such-model-anywhere")
