"""Checkpoints: the same outputs after a reload, and a sentence for everything that is wrong."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from bipft_compress import checkpoint, loading
from bipft_compress.checkpoint.record import RECORD, WEIGHTS, Record
from bipft_compress.errors import CheckpointError, OutputError, RecipeError
from bipft_compress.families import describe
from bipft_compress.nn import TiedDecoder
from bipft_compress.recipe import Recipe

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
    loaded, its_tokenizer, its_record = checkpoint.load_trainable(tmp_path / "out")
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
    if encoder.decoder is not None and code != "full":
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
    "newer": (lambda d: _edit(d / RECORD, format_version=3), "newer release .*version 3.*upgrade"),
    "older": (lambda d: _edit(d / RECORD, format_version=0), "older release .*version 0.*again"),
    "odd version": (lambda d: _edit(d / RECORD, format_version="2"), "format version '2'"),
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
        checkpoint.load_trainable(binary)
    assert str(error.value).endswith(".")


def test_a_missing_directory_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="no directory"):
        checkpoint.load_trainable(tmp_path / "nowhere")


def test_a_recipe_of_another_release_is_told(binary):
    recipe = json.loads((binary / RECORD).read_text())["recipe"]
    _edit(binary / RECORD, recipe=recipe | {"colour": "red"})
    with pytest.raises(RecipeError, match="colour"):
        checkpoint.load_trainable(binary)


def test_weights_that_fit_another_recipe_are_refused(binary):
    """The checksum is right, the record says rank 3 and the file holds rank 2."""
    recipe = json.loads((binary / RECORD).read_text())["recipe"]
    recipe["estimators"]["query"] = 3
    _edit(binary / RECORD, recipe=recipe)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        checkpoint.load_trainable(binary)
    recipe["estimators"]["query"] = 0
    _edit(binary / RECORD, recipe=recipe)
    with pytest.raises(CheckpointError, match=r"estimator.* has no place"):
        checkpoint.load_trainable(binary)


def _other_file(directory):
    (directory / WEIGHTS).write_bytes(b"not a tensor")


@pytest.mark.parametrize("damage", [_truncate, _other_file])
def test_a_damaged_state_is_refused(binary, damage, make_pair):
    damage(binary)
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        loading.load_state(make_pair("bert", recipe=RECIPE).student, binary / WEIGHTS)


def test_saving_over_something_needs_overwrite(binary, make_pair, tokenizer):
    pair = make_pair("bert", recipe=RECIPE)
    with pytest.raises(OutputError, match="--overwrite"):
        checkpoint.save(binary, pair.student, tokenizer, _record(pair, RECIPE))
    (binary / "stray").write_text("")
    checkpoint.save(binary, pair.student, tokenizer, _record(pair, RECIPE), overwrite=True)
    assert not (binary / "stray").exists()
    checkpoint.load_trainable(binary)
