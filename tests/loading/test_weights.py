"""Weights in shards and in pickles: all are read, and none runs code."""

from __future__ import annotations

import json
import pickle

import huggingface_hub.constants as hub
import pytest
import torch
from safetensors.torch import load_file

from bipft_compress import loading
from bipft_compress.checkpoint.record import WEIGHTS
from bipft_compress.errors import CheckpointError
from bipft_compress.loading.weights import fetch, read_weights

INDEX = "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"
IDS = torch.tensor([[0, 7, 30, 99, 2]])


@torch.no_grad()
def _output(model):
    return model(IDS)[0]


def _as_pickle(directory, name=PICKLE):
    torch.save(load_file(directory / WEIGHTS), directory / name)
    (directory / WEIGHTS).unlink()


@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert"])
def test_shards_are_read(write_checkpoint, family, tmp_path):
    original = write_checkpoint(tmp_path, family, "ForMaskedLM")
    (tmp_path / WEIGHTS).unlink()
    original.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    model, _ = loading.load_pretrained(tmp_path)
    assert torch.equal(_output(model), _output(original))


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2"])
def test_a_pickle_of_tensors_is_read(write_checkpoint, family, tmp_path):
    original = write_checkpoint(tmp_path, family, "ForMaskedLM")
    _as_pickle(tmp_path)
    model, _ = loading.load_pretrained(tmp_path)
    assert torch.equal(_output(model), _output(original))


def test_a_pickle_in_the_old_form_is_read(write_checkpoint, tmp_path):
    original = write_checkpoint(tmp_path)
    state = original.state_dict()
    torch.save(state, tmp_path / PICKLE, _use_new_zipfile_serialization=False)
    (tmp_path / WEIGHTS).unlink()
    model, _ = loading.load_pretrained(tmp_path)
    assert torch.equal(_output(model), _output(original))


def test_shards_of_pickles_are_read(write_checkpoint, tmp_path):
    original = write_checkpoint(tmp_path)
    state, places = load_file(tmp_path / WEIGHTS), {}
    for number, names in enumerate((list(state)[::2], list(state)[1::2])):
        file = f"pytorch_model-{number}.bin"
        torch.save({name: state[name] for name in names}, tmp_path / file)
        places |= dict.fromkeys(names, file)
    (tmp_path / f"{PICKLE}.index.json").write_text(json.dumps({"weight_map": places}))
    (tmp_path / WEIGHTS).unlink()
    model, _ = loading.load_pretrained(tmp_path)
    assert torch.equal(_output(model), _output(original))


class _Bomb:
    """Creates a file when unpickled."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("how", ["pickle", "torch", "torch, old form", "a tensor beside it"])
def test_a_pickle_that_runs_code_is_refused(write_checkpoint, tmp_path, how, monkeypatch):
    directory = tmp_path / "checkpoint"
    write_checkpoint(directory)
    (directory / WEIGHTS).unlink()
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path, bomb = directory / PICKLE, _Bomb(tmp_path / "ran")
    if how == "pickle":
        path.write_bytes(pickle.dumps(bomb))
    elif how == "a tensor beside it":
        torch.save({"embeddings.word_embeddings.weight": torch.zeros(2), "more": bomb}, path)
    else:
        torch.save({"a": bomb}, path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(CheckpointError, match=r"is refused: .*could run code") as error:
        loading.load_pretrained(directory)
    assert str(error.value).count("\n") == 0
    assert not (tmp_path / "ran").exists()


def test_safetensors_go_before_pickles(write_checkpoint, tmp_path):
    directory = tmp_path / "checkpoint"
    original = write_checkpoint(directory)
    (directory / PICKLE).write_bytes(pickle.dumps(_Bomb(tmp_path / "ran")))
    model, _ = loading.load_pretrained(directory)
    assert torch.equal(_output(model), _output(original))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("held", [[torch.zeros(2)], {"a": 3}, {1: torch.zeros(2)}])
def test_a_pickle_of_something_else_is_refused(write_checkpoint, tmp_path, held):
    write_checkpoint(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    torch.save(held, tmp_path / PICKLE)
    with pytest.raises(CheckpointError, match="something else than tensors by name"):
        loading.load_pretrained(tmp_path)


@pytest.mark.parametrize("data", [b"", b"not a pickle", b"PK\x03\x04 broken", b"\x80\x02}q\x00"])
def test_a_damaged_pickle_is_refused(write_checkpoint, tmp_path, data):
    write_checkpoint(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    (tmp_path / PICKLE).write_bytes(data)
    with pytest.raises(CheckpointError, match="is refused: it is damaged"):
        loading.load_pretrained(tmp_path)


def _index(directory, **places):
    (directory / WEIGHTS).rename(directory / "a.safetensors")
    names = dict.fromkeys(load_file(directory / "a.safetensors"), "a.safetensors")
    (directory / INDEX).write_text(json.dumps({"weight_map": names | places}))


def _outside(place):
    def fault(directory):
        elsewhere = directory.parent / "elsewhere.safetensors"
        elsewhere.write_bytes((directory / WEIGHTS).read_bytes())
        _index(directory, **{"embeddings.word_embeddings.weight": place(elsewhere)})

    return fault


SHARD_FAULTS = {
    "above": (_outside(lambda path: f"../{path.name}"), "not an index of weights beside it"),
    "absolute": (_outside(str), "not an index of weights beside it"),
    "backslash": (_outside(lambda path: f"..\\{path.name}"), "not an index of weights beside it"),
    "directory": (_outside(lambda _: ".."), "not an index of weights beside it"),
    "number": (_outside(lambda _: 3), "not an index of weights beside it"),
    "no map": (
        lambda d: (_index(d), (d / INDEX).write_text('{"weight_map": []}')),
        "not an index of weights beside it",
    ),
    "no shard": (lambda d: _index(d, more="b.safetensors"), "lacks b.safetensors"),
    "no tensor": (lambda d: _index(d, more="a.safetensors"), "lacks the tensor more"),
    "not JSON": (lambda d: (_index(d), (d / INDEX).write_text("{")), "not valid JSON"),
}


@pytest.mark.parametrize("fault", SHARD_FAULTS)
def test_a_faulty_index_of_shards_is_refused(write_checkpoint, tmp_path, fault):
    directory = tmp_path / "checkpoint"
    write_checkpoint(directory)
    damage, says = SHARD_FAULTS[fault]
    damage(directory)
    with pytest.raises(CheckpointError, match=says):
        loading.load_pretrained(directory)


def test_weights_of_the_hub_are_taken_from_its_cache(write_checkpoint, tmp_path, monkeypatch):
    """Whole, in shards, and from the snapshot that the cache holds; tests ask no network."""
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    commit = "0" * 40
    for name, shards in (("whole", False), ("shards", True)):
        repository = tmp_path / f"models--someone--{name}"
        snapshot = repository / "snapshots" / commit
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(commit)
        original = write_checkpoint(snapshot)
        if shards:
            (snapshot / WEIGHTS).unlink()
            original.save_pretrained(snapshot, max_shard_size="20KB")
        assert fetch(f"someone/{name}") == snapshot
        assert read_weights(snapshot).keys() == original.state_dict().keys()
    (snapshot / INDEX).unlink()
    with pytest.raises(CheckpointError, match=r"holds no weights|cannot be fetched"):
        fetch("someone/shards")
