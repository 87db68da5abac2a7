"""Checkpoints: the same outputs after a reload, and a sentence for everything that is wrong."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from importlib import import_module

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from bipft_compress import checkpoint, loading
from bipft_compress.checkpoint.record import RECORD, WEIGHTS, Record
from bipft_compress.errors import CheckpointError, OutputError, RecipeError, UserError
from bipft_compress.families import describe
from bipft_compress.nn import TiedDecoder
from bipft_compress.recipe import Recipe

from ..sealing import edit_record, lay_beside, reseal, seal

report_job = import_module("bipft_compress.jobs.report")

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
        seal(directory / RECORD, values)

    return fault


def _broken_tokenizer(directory):
    (directory / "tokenizer.json").write_text("{")
    reseal(directory)


def _directory(directory):
    (directory / "config.json").unlink()
    (directory / "config.json").mkdir()
    edit_record(directory)


FAULTS = {
    "tampered": (_flip_a_bit, "does not match its checksum"),
    "truncated": (_truncate, "does not match its checksum"),
    "no weights": (lambda d: (d / WEIGHTS).unlink(), f"has no {WEIGHTS}"),
    "no record": (lambda d: (d / RECORD).unlink(), "is not a binary checkpoint"),
    "no config": (lambda d: (d / "config.json").unlink(), "no config.json"),
    "no tokenizer": (_no_tokenizer, "has no tokenizer.json: the checkpoint is incomplete"),
    "changed tokenizer": (
        lambda d: (d / "tokenizer.json").write_text("{"),
        "tokenizer.json does not match its checksum",
    ),
    "broken tokenizer": (_broken_tokenizer, "tokenizer"),
    "newer": (lambda d: _edit(d / RECORD, format_version=3), "newer release .*version 3.*upgrade"),
    "older": (lambda d: _edit(d / RECORD, format_version=0), "older release .*version 0.*again"),
    "odd version": (lambda d: _edit(d / RECORD, format_version="2"), "format version '2'"),
    "no version": (_without("format_version"), "format version None"),
    "no teacher": (_without("teacher"), "is incomplete"),
    "no checksum": (_without("weights_sha256"), "does not match its checksum"),
    "odd decision": (lambda d: edit_record(d, decisions=[{"a": 1}]), r"incomplete \(decisions.0"),
    "odd key": (lambda d: edit_record(d, colour="red"), r"is incomplete \(colour"),
    "odd recipe": (lambda d: edit_record(d, recipe=["red"]), r"is incomplete \(recipe"),
    "changed record": (lambda d: _edit(d / RECORD, teacher="x"), "does not match its own checksum"),
    "changed config": (lambda d: _edit(d / "config.json", layer_norm_eps=1.0), "was changed"),
    "no listing": (lambda d: edit_record(d, files={}), "has no checksums"),
    "a directory for a file": (_directory, "config.json cannot be read"),
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
    edit_record(binary, recipe=recipe | {"colour": "red"})
    with pytest.raises(RecipeError, match="colour"):
        checkpoint.load_trainable(binary)


def test_weights_that_fit_another_recipe_are_refused(binary):
    """The checksum is right, the record says rank 3 and the file holds rank 2."""
    recipe = json.loads((binary / RECORD).read_text())["recipe"]
    recipe["estimators"]["query"] = 3
    edit_record(binary, recipe=recipe)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        checkpoint.load_trainable(binary)
    recipe["estimators"]["query"] = 0
    edit_record(binary, recipe=recipe)
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


def test_what_is_not_listed_is_not_read(binary, tokenizer):
    lay_beside(binary)
    text = "ab cd [MASK] efg"
    assert checkpoint.load_trainable(binary)[1](text)["input_ids"] == tokenizer(text)["input_ids"]


def test_a_tokenizer_is_saved_again_after_its_files_are_gone(binary, tmp_path):
    model, tokenizer, record = checkpoint.load_trainable(binary)
    shutil.rmtree(binary)
    checkpoint.save(tmp_path / "again", model, tokenizer, record)
    again = checkpoint.load_trainable(tmp_path / "again")[1]
    assert again("abcd efg")["input_ids"] == tokenizer("abcd efg")["input_ids"]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"num_hidden_layers": 10**9}, "claims num_hidden_layers"),
        ({"num_hidden_layers": 4000}, "4,000 layers by its configuration"),
        # 10^12 weights, that no memory holds.
        ({"intermediate_size": 10**6, "vocab_size": 10**6}, "does not fit the model"),
        ({"num_attention_heads": 0}, "fits no model"),
    ],
)
def test_claims_are_bounded_before_anything_is_built(binary, values, says):
    _edit(binary / "config.json", **values)
    reseal(binary)
    with pytest.raises(CheckpointError, match=says):
        checkpoint.load_trainable(binary)


@given(at=st.floats(0, 1, exclude_max=True), by=st.integers(1, 255), data=st.data())
def test_a_flipped_byte_changes_nothing_or_is_refused(saved, tmp_path_factory, at, by, data):
    """Of any file: what is loaded is what was saved."""
    directory = tmp_path_factory.mktemp("flipped") / "binary"
    shutil.copytree(saved, directory)
    name = data.draw(st.sampled_from(sorted(path.name for path in saved.iterdir())))
    content = bytearray((directory / name).read_bytes())
    content[int(at * len(content))] ^= by
    (directory / name).write_bytes(content)
    try:
        model, _, record = checkpoint.load_trainable(directory)
    except UserError:
        return
    # Space between JSON values, or the version before, under which it is read to the same end.
    assert name == RECORD
    expected, _, its_record = checkpoint.load_trainable(saved)
    assert record == its_record
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


@given(data=st.data())
def test_any_record_is_reported_or_refused_in_a_sentence(saved, tmp_path_factory, data):
    """Well sealed, and still nothing that a record should hold."""
    directory = tmp_path_factory.mktemp("odd") / "binary"
    shutil.copytree(saved, directory)
    record = json.loads((directory / RECORD).read_text())
    inner = data.draw(st.sampled_from([record, record["recipe"]]))
    key = data.draw(st.sampled_from(sorted(inner)))
    inner[key] = data.draw(ODD)
    seal(directory / RECORD, record)
    with pytest.MonkeyPatch.context() as patch:
        # Drawing takes seconds, and no fault of a record is found there.
        patch.setattr(report_job, "write_report", lambda *_: None)
        with suppress(UserError):
            report_job.report_checkpoint(directory, directory.parent / "report")
            checkpoint.load_trainable(directory)


ODD = st.one_of(
    st.sampled_from([0, -1, 10**12, True, None, "text", "", "a\0b", float("nan")]),
    st.lists(st.sampled_from([1, "a", {}, None]), max_size=2),
    st.dictionaries(st.sampled_from(["a", "loss", ""]), st.sampled_from([1, "a", []]), max_size=1),
)
