"""Which device a job runs on; on a GPU, where there is one, a model is what it is on the CPU."""

from __future__ import annotations

import copy

import pytest
import torch

from bipft_compress import compress
from bipft_compress.device import DEVICES, choose_device
from bipft_compress.errors import UserError
from bipft_compress.recipe import Recipe
from bipft_compress.training.arguments import training_arguments

RECIPE = {
    "initialisation": {"calibration_tokens": 300, "sequence_length": 24, "layer_epochs": 1},
    "estimators": {"attention_output": 1, "scores": 1, "context": 1},
}


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device() == torch.device("cpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device() == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device() == torch.device("cuda")
    assert choose_device("cpu") == torch.device("cpu")


def test_what_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device cuda was asked for"):
        choose_device("cuda")
    with pytest.raises(UserError, match=f"choose one of {', '.join(DEVICES)}"):
        choose_device("tpu")


def test_several_gpus_in_one_process_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("transformers.TrainingArguments.n_gpu", property(lambda _: 3))
    with pytest.raises(UserError, match=r"accelerate launch --num_processes 3"):
        training_arguments({}, tmp_path, None)


def test_training_is_kept_on_the_cpu(tmp_path):
    arguments = training_arguments({}, tmp_path, None, "cpu")
    assert arguments.use_cpu
    assert arguments.device == torch.device("cpu")


@pytest.mark.skipif(choose_device().type == "cpu", reason="there is no GPU")
def test_a_gpu_fits_what_the_cpu_fits(make_model, shape, tokenizer, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"{a}{b} {b}c d{a} a {b} {a}b." for a in "abcd" for b in "efghijkl"))
    model, recipe = make_model(shape), Recipe.load(RECIPE)
    on_cpu = compress(model, tokenizer, recipe, text)
    on_gpu = compress(copy.deepcopy(model).to(choose_device()), tokenizer, recipe, text)
    assert on_gpu.model.device.type == choose_device().type
    assert on_gpu.layer_errors == pytest.approx(on_cpu.layer_errors, rel=0.2)
