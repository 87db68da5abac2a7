"""Artefacts: read back whole, or refused with one sentence; never half, never another model."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from bipft_compress import checkpoint, loading
from bipft_compress.checkpoint import load
from bipft_compress.checkpoint.artefact import read_tensors
from bipft_compress.checkpoint.header import read_header
from bipft_compress.checkpoint.mark import is_packed, read_recipe
from bipft_compress.checkpoint.record import RECORD, WEIGHTS, Record
from bipft_compress.errors import CheckpointError, UserError
from bipft_compress.families import describe
from bipft_compress.recipe import Recipe
from bipft_compress.runtime.model import Skeleton, empty_model

from ..packing import EVERYTHING
from ..sealing import edit_record, lay_beside, reseal

QUERY = "encoder.layer.0.block.attention.query.weight"


@pytest.fixture(scope="module")
def written(write_packed, tmp_path_factory):
    """A packed directory that tests may copy, and the binary model that it was packed from."""
    directory = tmp_path_factory.mktemp("written") / "packed"
    return directory, write_packed(directory, recipe=EVERYTHING)


@pytest.fixture
def packed(written, tmp_path):
    return shutil.copytree(written[0], tmp_path / "packed")


@pytest.mark.parametrize("head", ["Model", "ForMaskedLM", "ForSequenceClassification"])
def test_round_trip(write_packed, family, head, tokenizer, tmp_path, padded):
    original = write_packed(tmp_path / "packed", family, head, EVERYTHING)
    model, its_tokenizer, record = load(tmp_path / "packed")
    assert type(model) is type(original)
    assert not model.training
    assert record.teacher == "teacher-dir"
    assert its_tokenizer("abcd efg")["input_ids"] == tokenizer("abcd efg")["input_ids"]
    with torch.no_grad():
        ours, theirs = model(**padded)[0], original(**padded)[0]
    real = padded["attention_mask"].bool()
    if ours.shape[:2] == real.shape:  # what padding reads is nobody's concern
        ours, theirs = ours[real], theirs[real]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_a_packed_copy_is_what_an_artefact_loads_as(written, padded):
    """Without a file between; the training model stays as it was."""
    directory, student = written
    recipe, before = load(directory)[2].recipe, copy.deepcopy(student.state_dict())
    ours = checkpoint.packed_copy(student, describe(student), recipe)
    theirs = load(directory)[0]
    assert type(ours) is type(theirs)
    own, other = ours.state_dict(), theirs.state_dict()
    assert own.keys() == other.keys()
    assert all(torch.equal(own[name], other[name]) for name in own)
    with torch.no_grad():
        assert torch.equal(ours(**padded)[0], theirs(**padded)[0])
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())


def test_what_is_written(packed):
    assert is_packed(packed)
    tensors = load_file(packed / WEIGHTS)
    record = json.loads((packed / RECORD).read_text())
    assert record["tensors"] == {
        name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        for name, tensor in tensors.items()
    }
    assert tensors[QUERY].dtype == torch.uint8
    assert tensors[QUERY].shape == (2, 36, 5)  # two planes
    config = json.loads((packed / "config.json").read_text())["quantization_config"]
    assert config.keys() == {
        "quant_method", "version", "form", "weights", "activations", "embeddings", "kept",
        "estimators", "readout", "modules",
    }  # fmt: skip
    assert config["activations"]["key_value_bits"] == 2
    assert {path.suffix for path in packed.iterdir()} == {".json", ".safetensors"}


def test_a_training_checkpoint_loads_too(make_pair, tokenizer, tmp_path):
    pair = make_pair("bert")
    record = Record(recipe=Recipe(), teacher="teacher-dir")
    checkpoint.save(tmp_path / "binary", pair.student, tokenizer, record)
    assert not is_packed(tmp_path / "binary")
    model, _, _ = load(tmp_path / "binary")
    assert any(parameter.requires_grad for parameter in model.parameters())


def test_training_does_not_go_on_from_bits(packed):
    with pytest.raises(CheckpointError, match="cannot be trained"):
        checkpoint.load_trainable(packed)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        loading.load_pretrained(packed)


def _edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def _edit_config(directory, **values):
    """Change the quantization config, the checksum with it: a fault of whoever wrote it."""
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] |= values
    path.write_text(json.dumps(config))
    reseal(directory)


def _rewrite(directory, change):
    tensors = load_file(directory / WEIGHTS)
    change(tensors)
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})


def _flip(path, place, by=1):
    data = bytearray(path.read_bytes())
    data[place] ^= by
    path.write_bytes(data)


def _header(directory, change):
    """Rewrite the header with the data left as it is."""
    data = (directory / WEIGHTS).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    text = change(data[8 : 8 + length].decode()).encode()
    (directory / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def _overlap(text):
    header = json.loads(text)
    names = [name for name in header if name != "__metadata__"]
    first, second = (header[name] for name in names[:2])
    second |= {key: first[key] for key in ("dtype", "shape", "data_offsets")}
    return json.dumps(header)


def _no_checksums(directory):
    edit_record(directory, tensors={})


def _files(directory):
    return json.loads((directory / RECORD).read_text())["files"]


def _of_length(length):
    def damage(directory):
        data = (directory / WEIGHTS).read_bytes()
        (directory / WEIGHTS).write_bytes(struct.pack("<Q", length) + data[8:])

    return damage


def _cut(size):
    def damage(directory):
        (directory / WEIGHTS).write_bytes((directory / WEIGHTS).read_bytes()[:size])

    return damage


FAULTS = {
    "flipped bit": (lambda d: _flip(d / WEIGHTS, -1), "does not match its checksum"),
    "missing tensor": (lambda d: _rewrite(d, lambda t: t.pop(QUERY)), f"lacks the tensor {QUERY}"),
    "unexpected tensor": (
        lambda d: _rewrite(d, lambda t: t.update(odd=torch.zeros(3))),
        "has a tensor odd that",
    ),
    "other shape": (
        lambda d: _rewrite(d, lambda t: t.update({QUERY: torch.zeros(36, 4, dtype=torch.uint8)})),
        rf"{QUERY} is torch.uint8 \(36, 4\), not torch.uint8 \(2, 36, 5\)",
    ),
    "other type": (
        lambda d: _rewrite(d, lambda t: t.update({QUERY: torch.zeros(36, 5).half()})),
        f"{QUERY} is torch.float16",
    ),
    "unknown type": (
        lambda d: _rewrite(d, lambda t: t.update({QUERY: torch.zeros(36, 5).double()})),
        f"its header says of '{QUERY}' what cannot be",
    ),
    "other numbers": (
        lambda d: _rewrite(d, lambda t: t[QUERY].zero_()),
        f"{QUERY} does not match its checksum",
    ),
    "truncated": (_cut(-100), "truncated or damaged"),
    "cut in the header": (_cut(100), "truncated or damaged"),
    "seven bytes": (_cut(7), "truncated or damaged"),
    "empty": (_cut(0), "truncated or damaged"),
    "header of 2^60 bytes": (_of_length(2**60), "cannot hold a header of 1,152,921,504,606,846"),
    "header of 2^64-1 bytes": (_of_length(2**64 - 1), "cannot hold a header"),
    "header of no bytes": (_of_length(0), "is not valid JSON"),
    "overlap": (lambda d: _header(d, _overlap), "overlap, leave gaps"),
    "more bytes": (
        lambda d: (d / WEIGHTS).write_bytes((d / WEIGHTS).read_bytes() + b"more"),
        "do not fill the file",
    ),
    "a name twice": (
        lambda d: _header(d, lambda text: '{"__metadata__":{"format":"pt"},' + text[1:]),
        "is not valid JSON",
    ),
    "nested header": (lambda d: _header(d, lambda text: "[" * 100_000), "is not valid JSON"),
    "a list": (lambda d: _header(d, lambda text: "[]"), "not one that bipft-compress writes"),
    "negative offsets": (
        lambda d: _header(
            d, lambda text: text.replace('"data_offsets":[0,', '"data_offsets":[-8,')
        ),
        "what cannot be",
    ),
    "no weights": (lambda d: (d / WEIGHTS).unlink(), f"{WEIGHTS} is missing"),
    "no record": (lambda d: (d / RECORD).unlink(), f"has no {RECORD}"),
    "no checksums": (_no_checksums, "has no checksums"),
    "odd checksums": (lambda d: edit_record(d, tensors="abc"), "is incomplete .tensors: "),
    "newer record": (lambda d: _edit(d / RECORD, format_version=3), "newer release"),
    "older record": (lambda d: _edit(d / RECORD, format_version=0), "older release"),
    "changed record": (lambda d: _edit(d / RECORD, teacher="x"), "does not match its own checksum"),
    "a path elsewhere": (
        lambda d: edit_record(d, files=_files(d) | {"../config.json": "0"}),
        "lists '../config.json', which lies elsewhere",
    ),
    "changed config": (lambda d: _edit(d / "config.json", layer_norm_eps=1.0), "was changed"),
    "changed tokenizer": (lambda d: _flip(d / "tokenizer.json", 40), "was changed"),
    "no tokenizer": (lambda d: (d / "tokenizer.json").unlink(), "has no tokenizer.json"),
    "newer": (lambda d: _edit_config(d, version=3), "version 3, of a newer release"),
    "no version": (lambda d: _edit_config(d, version=None), "of version None"),
    "other method": (lambda d: _edit_config(d, quant_method="gptq"), "not a packed artefact"),
    "no sections": (lambda d: _edit_config(d, kept=None), "invalid quantization_config"),
    "other recipe": (lambda d: _edit_config(d, kept={"pooler": 8}), "disagree about the recipe"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_artefact_is_refused(packed, fault):
    damage, says = FAULTS[fault]
    damage(packed)
    with pytest.raises(CheckpointError, match=says) as error:
        load(packed)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "values", [{"num_attention_heads": 7}, {"num_attention_heads": 0}, {"hidden_act": "gelv"}]
)
def test_a_configuration_that_fits_no_model(packed, values):
    path = packed / "config.json"
    _edit(path, **values)
    _edit_config(packed)
    with pytest.raises(CheckpointError, match="fits no model"):
        load(packed)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"num_hidden_layers": 10**9}, "claims num_hidden_layers = 1000000000"),
        ({"num_hidden_layers": 4000}, "4,000 layers by its configuration"),
        ({"vocab_size": 10**12}, "claims vocab_size"),
        ({"max_position_embeddings": 10**12}, "claims max_position_embeddings"),
        ({"num_labels": 10**9}, "claims num_labels"),
        ({"intermediate_size": 10**6}, "lacks|is torch"),
    ],
)
def test_claims_are_bounded_before_anything_is_built(packed, values, says):
    _edit(packed / "config.json", **values)
    reseal(packed)
    with pytest.raises(CheckpointError, match=says):
        load(packed)


def test_what_is_not_listed_is_not_read(packed):
    """transformers reads such files beside a tokenizer, and they change token ids."""
    text = "ab cd [MASK] efg"
    expected = load(packed)[1](text)["input_ids"]
    lay_beside(packed)
    assert AutoTokenizer.from_pretrained(packed)(text)["input_ids"] != expected
    assert load(packed)[1](text)["input_ids"] == expected


def test_flags_that_contradict_the_rows(packed):
    """Well formed, of the right checksum, and still not looked up beyond the end of a table."""
    name = "embeddings.word_embeddings.is_frequent"
    _rewrite(packed, lambda tensors: tensors[name].fill_(255))
    reseal(packed)
    with pytest.raises(CheckpointError, match="marks 101 rows where there are 10"):
        load(packed)


def test_not_an_artefact(write_checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match="no directory"):
        load(tmp_path / "nowhere")
    write_checkpoint(tmp_path / "plain")
    with pytest.raises(CheckpointError, match="is not a binary checkpoint"):
        load(tmp_path / "plain")
    with pytest.raises(CheckpointError, match="is not a packed artefact"):
        read_recipe(tmp_path / "plain")


def test_no_code_is_run(packed, monkeypatch):
    """Reading touches neither pickle nor torch's own format."""

    def refuse(*_, **__):
        raise AssertionError("unpickled")

    monkeypatch.setattr("pickle.Unpickler", refuse)
    monkeypatch.setattr("torch.load", refuse)
    load(packed)


@pytest.fixture(scope="module")
def weights(written, tmp_path_factory):
    """The bytes of a file, a function that reads other bytes in its place, and what they hold."""
    directory, _ = written
    recipe = read_recipe(directory)
    expected = Skeleton(empty_model(loading.load_config(directory)), recipe).expected()
    checksums = Record.read(directory).tensors
    path = tmp_path_factory.mktemp("fuzz") / WEIGHTS

    def read(data):
        path.unlink(missing_ok=True)  # what was mapped stays whole
        path.write_bytes(data)
        return read_tensors(path, read_header(path), expected, checksums)

    data = (directory / WEIGHTS).read_bytes()
    return data, read, read(data)


@given(at=st.floats(0, 1, exclude_max=True))
def test_truncated(weights, at):
    data, read, _ = weights
    with pytest.raises(CheckpointError):
        read(data[: int(at * len(data))])


@given(at=st.floats(0, 1, exclude_max=True), by=st.integers(1, 255), header=st.booleans())
def test_a_flipped_byte(weights, at, by, header):
    data, read, original = weights
    end = 8 + struct.unpack("<Q", data[:8])[0] if header else len(data)
    flipped = bytearray(data)
    flipped[int(at * end)] ^= by
    try:
        tensors = read(flipped)
    except CheckpointError:
        return
    assert tensors.keys() == original.keys()
    assert all(torch.equal(tensor, original[name]) for name, tensor in tensors.items())


@given(at=st.floats(0, 1, exclude_max=True), by=st.integers(1, 255), data=st.data())
def test_a_flipped_byte_of_the_other_files(written, tmp_path_factory, at, by, data):
    original, model = written
    names = ["config.json", "tokenizer_config.json", "tokenizer.json", RECORD]
    name = data.draw(st.sampled_from(names))
    directory = tmp_path_factory.mktemp("flipped") / "packed"
    shutil.copytree(original, directory)
    size = (directory / name).stat().st_size
    _flip(directory / name, int(at * size), by)
    try:
        loaded, _, _ = load(directory)
    except UserError:
        return
    # The record tells of the past in words that nothing depends on.
    assert name == RECORD
    ids = torch.tensor([[0, 7, 2]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids)[0], model(ids)[0], atol=1e-4, rtol=0)
