"""What version 0.1 wrote: the same tensors under new names, and the same outputs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import CONFIG_MAPPING

from bipft_compress import checkpoint, load, loading
from bipft_compress.checkpoint.legacy import rename_0_1
from bipft_compress.checkpoint.record import RECORD, WEIGHTS, Record, read_version, write_record
from bipft_compress.errors import CheckpointError
from bipft_compress.families import describe

DATA = Path(__file__).parent.parent / "data" / "version-0.1"
MODELS = ["bert", "distilbert"]


@pytest.mark.parametrize("name", MODELS)
def test_a_checkpoint_of_version_0_1_computes_what_it_did(name):
    model, tokenizer, record = checkpoint.load_trainable(DATA / name)
    expected = load_file(DATA / f"{name}-outputs.safetensors")
    inputs = {key: expected[key] for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        made = model(**inputs, output_hidden_states=True)
    # Another processor may sum in another order.
    exact = {"rtol": 0, "atol": 1e-6}
    hidden = torch.stack(made.hidden_states)
    torch.testing.assert_close(hidden, expected["hidden_states"], **exact)
    torch.testing.assert_close(made.logits, expected["logits"], **exact)
    assert tokenizer("hello")["input_ids"][0] == 0
    modules = dict(model.named_modules())
    assert all(decision.module in modules for decision in record.decisions)


@pytest.mark.parametrize("name", MODELS)
def test_no_tensor_is_changed_or_lost(name):
    old = load_file(DATA / name / WEIGHTS)
    names = rename_0_1(old, name)
    new = loading.state_to_save(checkpoint.load_trainable(DATA / name)[0])
    assert set(names.values()) == new.keys()
    assert len(set(names.values())) == len(names)
    for before, after in names.items():
        assert torch.equal(old[before], new[after])


@pytest.mark.parametrize("name", MODELS)
def test_packed_names_are_those_of_blocks_too(name):
    old = load_file(DATA / f"{name}-packed" / WEIGHTS)
    names = rename_0_1(old, name)
    paths = {path for path, _ in describe(checkpoint.load_trainable(DATA / name)[0]).linears()}
    assert {f"{path}.weight" for path in paths} <= set(names.values())
    assert rename_0_1(names.values(), name) == {new: new for new in names.values()}


@pytest.mark.parametrize("name", MODELS)
def test_a_packed_artefact_of_version_0_1_runs(name):
    """Its record lists what it read, and its bits give the training form's signs."""
    packed, tokenizer, record = load(DATA / f"{name}-packed")
    expected = load_file(DATA / f"{name}-outputs.safetensors")
    inputs = {key: expected[key] for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        hidden = packed(**inputs, output_hidden_states=True).hidden_states[-1]
    real = inputs["attention_mask"].bool()
    trained = expected["hidden_states"][-1]
    torch.testing.assert_close(hidden[real], trained[real], rtol=0, atol=1e-4)
    assert tokenizer("hello")["input_ids"][0] == 0
    assert record.tensors


def test_all_six_families_of_version_0_1_are_renamed():
    for family in ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert"):
        assert family in CONFIG_MAPPING
        layer = "transformer.layer.0." if family == "distilbert" else "encoder.layer.11."
        query = "attention.q_lin" if family == "distilbert" else "attention.self.query"
        for prefix in ("", "model."):
            old = f"{prefix}{layer}{query}.weight"
            assert rename_0_1([old], family) == {
                old: f"{prefix}{layer}block.attention.query.weight"
            }
    with pytest.raises(CheckpointError, match=r"had no model type 'mpnet'"):
        rename_0_1([], "mpnet")


def test_saving_again_makes_it_new(tmp_path):
    model, tokenizer, record = checkpoint.load_trainable(DATA / "bert")
    checkpoint.save(tmp_path / "new", model, tokenizer, record)
    assert read_version(DATA / "bert") == 1
    assert read_version(tmp_path / "new") == 2
    again, _, its_record = checkpoint.load_trainable(tmp_path / "new")
    assert its_record == record
    theirs = again.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, theirs[name])


def test_a_record_written_beside_old_weights_stays_old(tmp_path):
    """Such as `evaluate` does, which adds figures to a record."""
    directory = shutil.copytree(DATA / "bert", tmp_path / "old")
    record = checkpoint.load_trainable(directory)[2]
    record.quality = {"sts": 0.5}
    write_record(directory, record)
    assert json.loads((directory / RECORD).read_text())["format_version"] == 1
    assert checkpoint.load_trainable(directory)[2].quality == {"sts": 0.5}
    assert Record.read(directory) == record
