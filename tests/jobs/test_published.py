"""Every shipped recipe through every job on a tiny checkpoint, with the pieces its paper names."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch

from bipft_compress import ChosenTask, Recipe, checkpoint, compress_checkpoint, finetune, load, pack
from bipft_compress.checkpoint.record import WEIGHTS
from bipft_compress.families import describe, get_module
from bipft_compress.jobs import evaluate_task, report_checkpoint
from bipft_compress.jobs.pretrain import pretrain
from bipft_compress.recipe import shipped_recipes

module = import_module("bipft_compress.jobs.pretrain")

SMALL = {
    "initialisation": {"calibration_tokens": 400, "batch_tokens": 200, "sequence_length": 24},
    "embeddings": {"subvector": 4},
    "text": {"sequence_length": 24, "shortest": 4, "overlong": "cut"},
    "training": {
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "warmup_steps": 0,
        "save_strategy": "no",
        "logging_steps": 1,
        "use_cpu": True,
    },
    "finetuning": {
        "sequence_length": 24,
        "training": {
            "max_steps": 2, "per_device_train_batch_size": 4, "save_strategy": "no", "use_cpu": True
        },
    },
}  # fmt: skip


def _small(name):
    values = Recipe.load(name).model_dump()
    for section, changes in SMALL.items():
        values[section] |= changes
    return Recipe.load(values)


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_recipe_goes_through_every_job(name, tmp_path, make_checkpoint, corpus, sst2):
    original = make_checkpoint("bert", "Model")
    recipe = _small(name)
    compress_checkpoint(original, recipe, tmp_path / "binary", calibration=corpus)
    record = pretrain(tmp_path / "binary", corpus, tmp_path / "pretrained")
    assert record.recipe.schedule == ()
    assert record.recipe.activations.bits == 1
    assert record.training[-1]["step"] == (2 if recipe.schedule else 4)
    # A teacher for those whose fine-tuning has no term for labels.
    task = ChosenTask("sst2", sst2)
    finetune(original, task, tmp_path / "teacher", steps=2)
    made = finetune(tmp_path / "pretrained", task, tmp_path / "tuned", teacher=tmp_path / "teacher")
    again = evaluate_task(tmp_path / "tuned", task)["sst2_accuracy"]["compressed"]
    assert made.metrics["accuracy"] == again
    pack(tmp_path / "tuned", tmp_path / "packed")
    report = report_checkpoint(tmp_path / "tuned", tmp_path / "report", sequence_length=16)
    assert report.operations.compressed < report.operations.full_precision / 5
    training, tokenizer, _ = checkpoint.load_trainable(tmp_path / "tuned")
    packed, _, _ = load(tmp_path / "packed")
    batch = tokenizer(["ab cd", "ef gh ab ac ad a b c"], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected, got = training(**batch).logits, packed(**batch).logits
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_the_papers_share_what_they_share():
    for name in ("baseline", "bibert", "bit", "bit-multistep", "bipft-a", "bipft-b"):
        recipe = Recipe.load(name)
        last = recipe.last_stage()
        assert last.activations.bits == last.activations.key_value_bits == 1
        assert recipe.embeddings.code == "sign"
        assert recipe.initialisation.scales == "magnitude"
        ranks = {kind: rank for kind, rank in recipe.estimators.ranks().items() if rank}
        assert ranks == ({"scores": 1, "context": 1} if name == "bipft-b" else {})
        assert recipe.activations.elastic == name.startswith("bit")
        assert (recipe.activations.attention == "boolean") == (name == "bibert")
        assert bool(recipe.objective.directions) == (name == "bibert")
        assert bool(recipe.objective.mlm) == (name == "baseline" or name.startswith("bipft"))


def _bits(model):
    """Bits of all its linears and attentions."""
    encoder = describe(model)
    paths = [path for path, _ in encoder.linears()]
    paths += [layer.attention for layer in encoder.layers]
    return {get_module(model, path).bits for path in paths}


def _of_one_bit(train):
    """`train`, which fails unless its student has one bit: a first stage would have two."""

    def checked(student, *args, **kwargs):
        assert _bits(student) == {1}
        return train(student, *args, **kwargs)

    return checked


def test_a_schedule_starts_with_more_bits_and_resumes(
    tmp_path, make_checkpoint, corpus, monkeypatch
):
    recipe = _small("bit-multistep")
    compress_checkpoint(
        make_checkpoint("bert", "Model"), recipe, tmp_path / "binary", calibration=corpus
    )
    model, _, _ = checkpoint.load_trainable(tmp_path / "binary")
    assert _bits(model) == {2}
    whole = pretrain(tmp_path / "binary", corpus, tmp_path / "whole")
    expected, _, _ = checkpoint.load_trainable(tmp_path / "whole")
    assert _bits(expected) == {1}
    assert len(whole.training) == 4

    # Cut short in the second stage: the first one is not trained again.
    work = tmp_path / ".cut.training"
    with monkeypatch.context() as patch:
        patch.setattr(module, "_write_start", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pretrain(tmp_path / "binary", corpus, tmp_path / "cut")
    assert (work / "stage-0" / WEIGHTS).is_file()
    monkeypatch.setattr(module, "pretrain_model", _of_one_bit(module.pretrain_model))
    pretrain(tmp_path / "binary", corpus, tmp_path / "cut", resume=True)
    resumed, _, _ = checkpoint.load_trainable(tmp_path / "cut")
    for name, value in expected.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert not work.exists()
