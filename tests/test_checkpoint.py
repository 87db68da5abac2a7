"""Checkpoints: the same outputs after a reload, and a sentence for everything that is wrong."""

from __future__ import annotations

import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2Model

from bipft_compress import checkpoint
from bipft_compress.errors import CheckpointError, OutputError, RecipeError, UnsupportedModelError
from bipft_compress.families import describe
from bipft_compress.nn import TiedDecoder
from bipft_compress.recipe import Recipe
from bipft_compress.record import RECORD, WEIGHTS, Record

RECIPE = {"estimators": {"query": 2, "scores": 1, "context": 1}}


def _record(pair, recipe: dict) -> Record:
    return Record(
        recipe=Recipe.load(recipe),
        teacher="teacher-dir",
        decisions=pair.decisions,
        layer_errors=pair.errors,
        training=[{"step": 1, "loss": 0.5}],
        provenance={"seed": 0},
        quality={"sts": 0.8},
    )


@pytest.mark.parametrize(
    ("head", "code"),
    [
        ("Model", "frequency-aware"),
        ("ForMaskedLM", "full"),
        ("ForMaskedLM", "frequency-aware"),
        ("ForSequenceClassification", "sign"),
    ],
)
def test_round_trip(make_pair, family, head, code, tokenizer, tmp_path):
    recipe = RECIPE | {"embeddings": {"code": code}}
    pair = make_pair(family, head, recipe)
    record = _record(pair, recipe)
    checkpoint.save(tmp_path / "out", pair.student, tokenizer, record)
    loaded, its_tokenizer, its_record = checkpoint.load(tmp_path / "out")
    ids = torch.tensor([[0, 7, 30, 99, 2, 1, 1], [0, 5, 6, 7, 8, 9, 2]])
    mask = (ids != 1).long()
    with torch.no_grad():
        got = loaded(ids, attention_mask=mask, output_hidden_states=True)
        expected = pair.student(ids, attention_mask=mask, output_hidden_states=True)
    assert torch.equal(got[0], expected[0])
    for ours, theirs in zip(got.hidden_states, expected.hidden_states, strict=True):
        assert torch.equal(ours, theirs)
    assert type(loaded) is type(pair.student)
    assert not loaded.training
    assert its_record == record
    assert its_tokenizer("abcd efg")["input_ids"] == tokenizer("abcd efg")["input_ids"]
    encoder = describe(loaded)
    if head == "ForMaskedLM" and code != "full":
        assert isinstance(loaded.get_submodule(encoder.decoder), TiedDecoder)


def test_nothing_is_stored_twice(make_pair, tokenizer, tmp_path):
    pair = make_pair("bert", "ForMaskedLM", {"embeddings": {"code": "full"}})
    checkpoint.save(tmp_path / "out", pair.student, tokenizer, _record(pair, {}))
    stored = load_file(tmp_path / "out" / WEIGHTS)
    parameters = sum(p.numel() for p in pair.student.parameters())
    assert sum(t.numel() for t in stored.values()) == parameters
    names = {path.suffix for path in (tmp_path / "out").iterdir()}
    assert names == {".json", ".safetensors"}


@pytest.fixture(scope="module")
def saved(make_pair, tokenizer, tmp_path_factory):
    """A binary checkpoint that tests may copy."""
    pair = make_pair("bert", recipe=RECIPE)
    directory = tmp_path_factory.mktemp("saved") / "binary"
    checkpoint.save(directory, pair.student, tokenizer, _record(pair, RECIPE))
    return directory


@pytest.fixture
def binary(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "binary")


def _edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def _flip_a_bit(directory):
    data = bytearray((directory / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (directory / WEIGHTS).write_bytes(data)


def _truncate(directory):
    (directory / WEIGHTS).write_bytes((directory / WEIGHTS).read_bytes()[:-100])


def _no_tokenizer(directory):
    for path in directory.glob("tokenizer*"):
        path.unlink()


def _without(key):
    def fault(directory):
        values = json.loads((directory / RECORD).read_text())
        del values[key]
        (directory / RECORD).write_text(json.dumps(values))

    return fault


FAULTS = {
    "tampered": (_flip_a_bit, "does not match its checksum"),
    "truncated": (_truncate, "does not match its checksum"),
    "no weights": (lambda d: (d / WEIGHTS).unlink(), f"has no {WEIGHTS}"),
    "no record": (lambda d: (d / RECORD).unlink(), "is not a binary checkpoint"),
    "no config": (lambda d: (d / "config.json").unlink(), "no config.json"),
    "no tokenizer": (_no_tokenizer, "has no tokenizer"),
    "broken tokenizer": (lambda d: (d / "tokenizer.json").write_text("{"), "tokenizer"),
    "newer": (lambda d: _edit(d / RECORD, format_version=2), "format version 2"),
    "no version": (_without("format_version"), "format version None"),
    "no teacher": (_without("teacher"), "is incomplete"),
    "no checksum": (_without("weights_sha256"), "does not match its checksum"),
    "odd decision": (lambda d: _edit(d / RECORD, decisions=[{"a": 1}]), "is incomplete"),
    "broken record": (lambda d: (d / RECORD).write_text('{"a'), "not valid JSON"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_binary_checkpoint_is_refused(binary, fault):
    damage, says = FAULTS[fault]
    damage(binary)
    with pytest.raises(CheckpointError, match=says) as error:
        checkpoint.load(binary)
    assert str(error.value).endswith(".")


def test_a_missing_directory_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="no directory"):
        checkpoint.load(tmp_path / "nowhere")


def test_a_recipe_of_another_release_is_told(binary):
    recipe = json.loads((binary / RECORD).read_text())["recipe"]
    _edit(binary / RECORD, recipe=recipe | {"colour": "red"})
    with pytest.raises(RecipeError, match="colour"):
        checkpoint.load(binary)


def test_weights_that_fit_another_recipe_are_refused(binary):
    """The checksum is right, the record says rank 3 and the file holds rank 2."""
    recipe = json.loads((binary / RECORD).read_text())["recipe"]
    recipe["estimators"]["query"] = 3
    _edit(binary / RECORD, recipe=recipe)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        checkpoint.load(binary)
    recipe["estimators"]["query"] = 0
    _edit(binary / RECORD, recipe=recipe)
    with pytest.raises(CheckpointError, match=r"estimator.* is unmatched"):
        checkpoint.load(binary)


def _other_file(directory):
    (directory / WEIGHTS).write_bytes(b"not a tensor")


@pytest.mark.parametrize("damage", [_truncate, _other_file])
def test_a_damaged_state_is_refused(binary, damage, make_pair):
    damage(binary)
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        checkpoint.load_state(make_pair("bert", recipe=RECIPE).student, binary / WEIGHTS)


def test_saving_over_something_needs_overwrite(binary, make_pair, tokenizer):
    pair = make_pair("bert", recipe=RECIPE)
    with pytest.raises(OutputError, match="--overwrite"):
        checkpoint.save(binary, pair.student, tokenizer, _record(pair, RECIPE))
    (binary / "stray").write_text("")
    checkpoint.save(binary, pair.student, tokenizer, _record(pair, RECIPE), overwrite=True)
    assert not (binary / "stray").exists()
    checkpoint.load(binary)


@pytest.mark.parametrize("head", ["Model", "ForMaskedLM", "ForTokenClassification"])
def test_full_precision_loads_in_its_own_class(write_checkpoint, family, head, tmp_path):
    original = write_checkpoint(tmp_path, family, head)
    model, tokenizer = checkpoint.load_pretrained(tmp_path)
    assert type(model) is type(original)
    ids = torch.tensor([[0, 7, 30, 99, 2]])
    with torch.no_grad():
        assert torch.equal(model(ids)[0], original(ids)[0])
    assert len(tokenizer) == 101
    assert model.config._attn_implementation == "eager"


def test_a_fresh_mlm_head_is_tied(write_checkpoint, family, tmp_path):
    original = write_checkpoint(tmp_path, family)
    model, _ = checkpoint.load_pretrained(tmp_path, mlm_head=True)
    encoder = describe(model)
    table = model.get_submodule(encoder.word_embeddings).weight
    assert model.get_submodule(encoder.decoder).weight is table
    assert torch.equal(table, original.get_input_embeddings().weight)


def _rewrite(directory, change):
    state = load_file(directory / WEIGHTS)
    change(state)
    save_file(state, directory / WEIGHTS, metadata={"format": "pt"})


ENCODER_TENSOR = "encoder.layer.1.output.dense.weight"
PRETRAINED_FAULTS = {
    "truncated": (_truncate, "truncated or damaged"),
    "no weights": (lambda d: (d / WEIGHTS).unlink(), "holds no weights"),
    "tensor missing": (lambda d: _rewrite(d, lambda s: s.pop(ENCODER_TENSOR)), ENCODER_TENSOR),
    "embedding missing": (
        lambda d: _rewrite(d, lambda s: s.pop("embeddings.word_embeddings.weight")),
        "word_embeddings",
    ),
    "other shape": (
        lambda d: _rewrite(d, lambda s: s.update({ENCODER_TENSOR: torch.zeros(3, 3)})),
        "cannot be loaded",
    ),
    "no config": (lambda d: (d / "config.json").unlink(), "no config.json"),
    "no tokenizer": (_no_tokenizer, "has no tokenizer"),
    "broken config": (lambda d: (d / "config.json").write_text("{"), "cannot be read"),
}


@pytest.mark.parametrize("fault", PRETRAINED_FAULTS)
def test_a_damaged_full_precision_checkpoint_is_refused(write_checkpoint, tmp_path, fault):
    write_checkpoint(tmp_path)
    damage, says = PRETRAINED_FAULTS[fault]
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=says):
        checkpoint.load_pretrained(tmp_path)


class _Bomb:
    """Creates a file when unpickled."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_no_pickle_is_read(write_checkpoint, tmp_path):
    directory = tmp_path / "checkpoint"
    write_checkpoint(directory)
    (directory / WEIGHTS).unlink()
    with (directory / "pytorch_model.bin").open("wb") as file:
        pickle.dump(_Bomb(tmp_path / "ran"), file)
    with pytest.raises(CheckpointError, match="only safetensors are read"):
        checkpoint.load_pretrained(directory)
    assert not (tmp_path / "ran").exists()


def test_other_architectures_are_refused(tmp_path):
    config = GPT2Config(n_embd=12, n_layer=1, n_head=2, vocab_size=20, n_positions=8)
    GPT2Model(config).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(UnsupportedModelError, match="gpt2"):
        checkpoint.load_pretrained(tmp_path / "gpt2")
    with pytest.raises(UnsupportedModelError, match="gpt2"):
        checkpoint.load_config(tmp_path / "gpt2" / "config.json")
    (tmp_path / "odd.json").write_text('{"model_type": "no-such-thing"}')
    with pytest.raises(UnsupportedModelError, match="no model type"):
        checkpoint.load_config(tmp_path / "odd.json")
    with pytest.raises(CheckpointError, match="neither a local directory"):
        checkpoint.load_config("nobody/no-such-model-anywhere")
