"""Every job takes the name of a model of the hub, and a revision of it; none changes the cache."""

from __future__ import annotations

import torch
from huggingface_hub import ModelCard

from bipft_compress import checkpoint, jobs, load, loading
from bipft_compress.checkpoint.identity import checkpoint_identity
from bipft_compress.checkpoint.record import Record
from bipft_compress.files import content_digest
from bipft_compress.recipe import Recipe

from .conftest import FINETUNING

IDS = torch.tensor([[0, 7, 30, 99, 2]])
ORIGINAL = "owner/bert@v1"
RECIPE = FINETUNING | {
    "text": {"sequence_length": 24, "shortest": 4},
    "objective": {"hidden_states": 1.0},
}


@torch.no_grad()
def _output(model):
    return model(IDS)[0]


def test_a_revision_goes_through_every_job(publish, write_checkpoint, corpus, tmp_path, call):
    """Two revisions differ; what is named is what is read, from `compress` to the model card."""
    first = write_checkpoint(tmp_path / "first", seed=1)
    write_checkpoint(tmp_path / "second", seed=2)
    commit = publish(tmp_path / "first", "owner/bert", "v1")
    publish(tmp_path / "second", "owner/bert")
    assert torch.equal(_output(loading.load_pretrained(ORIGINAL)[0]), _output(first))
    assert checkpoint_identity(ORIGINAL) == {"hub": ORIGINAL, "commit": commit}
    binary, packed = tmp_path / "binary", tmp_path / "packed"
    recipe = Recipe.load(RECIPE)
    record = jobs.compress_checkpoint(ORIGINAL, recipe, binary, calibration=corpus)
    assert record.teacher == ORIGINAL
    publish(binary, "owner/binary", "v2")
    cached = content_digest(tmp_path / "hub-cache")
    steps = {"steps": 1, "device": "cpu"}
    trained = jobs.pretrain(
        "owner/binary@v2", corpus, tmp_path / "trained", teacher=ORIGINAL, **steps
    )
    assert trained.training
    jobs.pack_checkpoint("owner/binary@v2", packed)
    assert Record.read(packed).teacher == ORIGINAL
    card = ModelCard.load(packed / "README.md")
    assert card.data.base_model == "owner/bert"
    assert "[owner/bert@v1](https://huggingface.co/owner/bert/tree/v1)" in card.text
    report = jobs.report_checkpoint("owner/binary@v2", tmp_path / "report")
    assert report.model.checkpoint == ORIGINAL
    assert call("report", ORIGINAL, "--out", tmp_path / "saved")[0] == 0
    assert content_digest(tmp_path / "hub-cache") == cached


def test_figures_of_a_model_of_the_hub_are_not_kept(
    publish, write_checkpoint, corpus, tmp_path, call
):
    write_checkpoint(tmp_path / "original")
    recipe = Recipe.load(RECIPE)
    jobs.compress_checkpoint(tmp_path / "original", recipe, tmp_path / "binary", calibration=corpus)
    publish(tmp_path / "binary", "owner/binary")
    pairs = tmp_path / "pairs.tsv"
    rows = [("ab cd", "ef gh", 1), ("ab", "ab ac", 4), ("cd", "ad ef", 2), ("gh", "gh", 5)]
    table = "\n".join("\t".join(map(str, row)) for row in rows)
    pairs.write_text(f"sentence1\tsentence2\tscore\n{table}\n")
    code, out, err = call("evaluate", "owner/binary", "--data", pairs)
    assert (code, "Spearman" in out) == (0, True), err
    cached = checkpoint.local_directory("owner/binary")
    assert Record.read(cached).quality == {}


def test_a_directory_with_an_at_sign(write_checkpoint, corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "bert@v1")
    record = jobs.compress_checkpoint(
        "bert@v1", Recipe.load(RECIPE), tmp_path / "binary@v1", calibration=corpus
    )
    assert record.teacher == str(tmp_path / "bert@v1")
    jobs.pack_checkpoint("binary@v1", "packed@v1")
    assert load("packed@v1")[2].teacher == "./bert@v1"
