"""Adapters over binary layers are PEFT's: few numbers train, the rest stays, PEFT reads them."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file

from bipft_compress import checkpoint, loading, pack
from bipft_compress.checkpoint import unpack
from bipft_compress.errors import CheckpointError, RecipeError
from bipft_compress.families import describe
from bipft_compress.jobs.evaluate import evaluate_task
from bipft_compress.jobs.finetune import finetune
from bipft_compress.loading.checksums import FINE_TUNED, write_fine_tuned
from bipft_compress.nn import BinaryLinear
from bipft_compress.recipe import Recipe
from bipft_compress.structure.heads import with_classifier
from bipft_compress.tasks.chosen import ChosenTask
from bipft_compress.training import lora
from bipft_compress.training.finetuned import read_classifier

from .conftest import FINETUNING

RANK = 2
RECIPE = Recipe.load(FINETUNING)


def adapted(make_random_pair, family="bert"):
    pair = make_random_pair(family, recipe=FINETUNING)
    model, _ = with_classifier(pair.student, ("0", "1"), RECIPE)
    return model, lora.add_adapters(model, RANK)


def test_only_adapters_and_head_train(shape, make_random_pair):
    model, _ = adapted(make_random_pair, shape)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert all("lora_" in name or ".modules_to_save." in name for name in trained)
    layers = [part for part in model.modules() if isinstance(part, LoraLayer)]
    assert len(layers) == len(list(describe(model).linears()))
    for layer in layers:
        base = layer.get_base_layer()
        assert isinstance(base, BinaryLinear)
        numbers = sum(p.numel() for n, p in layer.named_parameters() if "lora_" in n)
        assert numbers == RANK * (base.in_features + base.out_features)


def test_an_adapter_adds_its_product(make_random_pair):
    model, around = adapted(make_random_pair)
    layer = next(part for part in model.modules() if isinstance(part, LoraLayer))
    x = torch.randn(3, layer.in_features)
    base = layer.get_base_layer()
    assert torch.equal(layer(x), base(x))  # B starts at zero
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.nn.init.normal_(b)
    torch.testing.assert_close(layer(x), base(x) + 2 * x @ a.T @ b.T)
    for merge in (around.merge_and_unload, around.merge_adapter):
        with pytest.raises(ValueError, match="cannot be merged into weights of a few bits"):
            merge()


def test_rank_larger_than_a_layer(make_random_pair):
    with pytest.raises(RecipeError, match="--lora 99 is larger"):
        lora.add_adapters(make_random_pair("bert").student, 99)


@pytest.mark.parametrize("binary", [True, False])
def test_result_is_an_adapter(make_binary, make_checkpoint, sst2, tmp_path, binary):
    task, out = ChosenTask("sst2", sst2), tmp_path / "adapter"
    start = make_binary() if binary else make_checkpoint("bert")
    before = (start / "model.safetensors").read_bytes()
    made = finetune(start, task, out, recipe=RECIPE, rank=RANK)
    assert (start / "model.safetensors").read_bytes() == before
    assert made.adapter_bytes == (out / "adapter_model.safetensors").stat().st_size
    stored = load_file(out / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in stored.values()) == made.trained_parameters
    assert evaluate_task(out, task)["sst2_accuracy"]["compressed"] == made.metrics["accuracy"]
    # By hand, as PEFT's users would.
    recipe = None
    if binary:
        backbone, _, record = checkpoint.load_trainable(start)
        recipe = record.recipe
    else:
        backbone, _ = loading.load_pretrained(start)
    pooling = json.loads((out / FINE_TUNED).read_text())["pooling"]
    assert pooling == ("mean" if binary else "first")
    model, _ = with_classifier(backbone, ("0", "1"), recipe, pooling)
    by_hand = PeftModel.from_pretrained(model, str(out)).eval()
    ids = torch.tensor([[0, 7, 8, 9, 2]])
    ours = read_classifier(out).model
    assert torch.equal(by_hand(input_ids=ids).logits, ours(input_ids=ids).logits)


def test_damaged_adapter(make_checkpoint, sst2, tmp_path):
    task, out = ChosenTask("sst2", sst2), tmp_path / "adapter"
    finetune(make_checkpoint("bert"), task, out, rank=RANK, steps=1)
    file = out / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors does not match its"):
        evaluate_task(out, task)
    write_fine_tuned(out, json.loads((out / FINE_TUNED).read_text()))
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        evaluate_task(out, task)
    whole = json.loads((out / FINE_TUNED).read_text())
    write_fine_tuned(out, whole | {"labels": ["0", [1]]})
    with pytest.raises(CheckpointError, match="does not say what it is an adapter of"):
        evaluate_task(out, task)
    (out / FINE_TUNED).write_text(json.dumps({}))
    with pytest.raises(CheckpointError, match="does not say what it is an adapter of"):
        evaluate_task(out, task)


def test_an_adapter_that_asks_for_another_package(make_checkpoint, sst2, tmp_path):
    out = tmp_path / "adapter"
    finetune(make_checkpoint("bert"), ChosenTask("sst2", sst2), out, rank=RANK, steps=1)
    settings = json.loads((out / lora.CONFIG).read_text()) | {"megatron_config": {"a": 1}}
    (out / lora.CONFIG).write_text(json.dumps(settings))
    write_fine_tuned(out, json.loads((out / FINE_TUNED).read_text()))
    with pytest.raises(CheckpointError, match=r"cannot be loaded \(No module named 'megatron'"):
        read_classifier(out)


def test_an_adapter_whose_base_has_changed(make_checkpoint, write_checkpoint, sst2, tmp_path):
    task, base = ChosenTask("sst2", sst2), make_checkpoint("bert")
    finetune(base, task, tmp_path / "adapter", rank=RANK, steps=1)
    read_classifier(tmp_path / "adapter")
    write_checkpoint(base, "bert", seed=1)
    with pytest.raises(CheckpointError, match=r"has changed since .*\(model\.safetensors\)"):
        read_classifier(tmp_path / "adapter")


def test_an_adapter_over_packed_bits(make_binary, sst2, tmp_path):
    start, task = make_binary(), ChosenTask("sst2", sst2)
    pack(start, tmp_path / "packed")
    latent, unpacked = checkpoint.load_trainable(start)[0], unpack(tmp_path / "packed")[0]
    ids = torch.tensor([[0, 7, 8, 9, 2]])
    assert torch.equal(latent(ids).last_hidden_state, unpacked(ids).last_hidden_state)
    made = finetune(tmp_path / "packed", task, tmp_path / "adapter", recipe=RECIPE, rank=RANK)
    assert made.adapter_bytes < (tmp_path / "packed" / "model.safetensors").stat().st_size
    found = evaluate_task(tmp_path / "adapter", task)
    assert found["sst2_accuracy"]["compressed"] == made.metrics["accuracy"]
    with pytest.raises(CheckpointError, match="packed: it runs, but cannot be trained"):
        finetune(tmp_path / "packed", task, tmp_path / "whole")
