"""PEFT adapts binary models like any other, packed ones too, and says what it cannot do."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer

from bipft_compress.checkpoint import load
from bipft_compress.families import describe
from bipft_compress.nn import BinaryLinear
from bipft_compress.runtime.block import PackedBlock
from bipft_compress.runtime.native import REFERENCE

CONFIG = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)


@pytest.fixture(scope="module")
def directory(write_packed, tmp_path_factory):
    directory = tmp_path_factory.mktemp("adapters") / "packed"
    write_packed(directory)
    return directory


def _output(model, batch):
    with torch.no_grad():
        return model(**batch).last_hidden_state


def _paths(model):
    return {module.path for module in model.modules() if isinstance(module, PackedBlock)}


def test_an_adapter_of_all_linears(directory, padded, tmp_path):
    """It changes the output of the packed model, trains, is saved, and is itself when read."""
    plain = load(directory)[0]
    before, kernels = _output(plain, padded), _paths(plain)
    model = get_peft_model(load(directory)[0], copy.deepcopy(CONFIG))
    layers = [part for part in model.modules() if isinstance(part, BaseTunerLayer)]
    binary = [part for part in layers if isinstance(part.get_base_layer(), BinaryLinear)]
    assert len(binary) == len(list(describe(plain).linears()))
    after = _output(model, padded)
    assert not torch.allclose(after, before)
    with model.disable_adapter():
        torch.testing.assert_close(_output(model, padded), before, atol=1e-5, rtol=0)
    model(**padded).last_hidden_state.square().mean().backward()
    grads = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert grads == {name for name, weight in model.named_parameters() if "lora_" in name}
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    again = PeftModel.from_pretrained(load(directory)[0], tmp_path / "adapter")
    assert torch.equal(_output(again, padded), after)
    assert _paths(again) == {REFERENCE}
    assert torch.equal(_output(again.unload(), padded), before)
    assert _paths(again) == kernels


def test_gradients_pass_through_blocks_without_an_adapter(directory, padded):
    targets = ["encoder.layer.0.block.attention.query"]
    model = get_peft_model(load(directory)[0], LoraConfig(r=2, target_modules=targets))
    assert len(_paths(model)) == 2
    model(**padded).last_hidden_state.square().mean().backward()
    query = model.get_submodule(f"base_model.model.{targets[0]}")
    assert query.lora_B["default"].weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "config", [CONFIG, IA3Config(target_modules="all-linear", feedforward_modules=[])]
)
def test_merging_is_refused(directory, config):
    model = get_peft_model(load(directory)[0], copy.deepcopy(config))
    with pytest.raises(ValueError, match="cannot be merged into weights of a few bits"):
        model.merge_and_unload()


READING = [
    {"use_dora": True},
    {"init_lora_weights": "pissa"},
    {"init_lora_weights": "pissa_niter_2"},
    {"init_lora_weights": "olora"},
    {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}},
]


@pytest.fixture(scope="module")
def training(make_pair):
    """A training model with a head, which is no binary layer."""
    return make_pair("bert", "ForSequenceClassification").student


@pytest.mark.parametrize("options", READING, ids=str)
def test_variants_that_read_codes_as_weights_are_refused(directory, training, options):
    for model in (load(directory)[0], copy.deepcopy(training)):
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.raises(ValueError, match="reads the weights of a layer, and those of a binary"):
            get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", **options))
        after = model.state_dict()
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("options", [{"use_dora": True}, {"init_lora_weights": "pissa"}], ids=str)
def test_they_work_on_layers_in_full_precision(training, padded, options):
    with torch.no_grad():
        before = training(**padded).logits
        config = LoraConfig(r=2, target_modules=["classifier"], **options)
        adapted = get_peft_model(copy.deepcopy(training), config)
        torch.testing.assert_close(adapted(**padded).logits, before, atol=1e-4, rtol=0)


def test_starts_that_do_not_read_weights_work(directory, training, padded):
    for form, start in (
        ("packed", "gaussian"),
        ("training", "gaussian"),
        ("training", "orthogonal"),
    ):
        model = load(directory)[0] if form == "packed" else copy.deepcopy(training)
        config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=start)
        with torch.no_grad():
            outputs = get_peft_model(model, config)(**padded)
        assert torch.isfinite(outputs[0]).all()


def test_an_orthogonal_start_needs_weights_that_are_numbers(directory):
    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights="orthogonal")
    with pytest.raises(ValueError, match="init_lora_weights='orthogonal' reads the weights"):
        get_peft_model(load(directory)[0], config)
