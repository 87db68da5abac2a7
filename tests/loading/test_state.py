"""Tensors in a file: shared ones once, views apart, and nothing loads that does not fit."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from bipft_compress.errors import CheckpointError
from bipft_compress.families import use_blocks
from bipft_compress.loading.state import fill, load_state, state_to_save, stored_names


class _Views(nn.Module):
    """Parameters that are views of one storage: two slices, all of it, and a transposed one."""

    def __init__(self) -> None:
        super().__init__()
        fused = torch.arange(12.0).view(4, 3)
        self.first = nn.Parameter(fused[:2])
        self.again = self.first
        self.twin = nn.Parameter(fused.detach()[:2])
        self.second = nn.Parameter(fused[2:])
        self.all = nn.Parameter(fused)
        self.begin = nn.Parameter(fused.view(-1)[:6])
        self.turned = nn.Parameter(fused.T)
        self.column = nn.Parameter(fused[:, 1])


def test_views_are_told_apart(tmp_path):
    model = _Views()
    names = stored_names(model)
    assert {name for name, stored in names.items() if stored != name} == {"again", "twin"}
    assert names["again"] == names["twin"] == "first"
    state = state_to_save(model)
    save_file(state, tmp_path / "model.safetensors")
    other = _Views()
    with torch.no_grad():
        other.all.zero_()
    load_state(other, tmp_path / "model.safetensors")
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_empty_tensors_are_no_views_of_each_other():
    model = nn.ParameterDict({"a": torch.zeros(0, 3), "b": torch.zeros(0, 3), "c": torch.zeros(0)})
    assert state_to_save(model).keys() == {"a", "b", "c"}


def test_tensors_on_the_meta_device_are_told_apart():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].bias = model[0].bias
    names = stored_names(model)
    assert {name for name, stored in names.items() if stored != name} == {"1.bias"}


@pytest.mark.parametrize("family", ["modernbert", "deberta", "albert"])
def test_slices_of_fused_weights_are_all_stored(make_model, family, tmp_path):
    model = make_model(family, "ForMaskedLM")
    use_blocks(model)
    state = state_to_save(model)
    assert sum(t.numel() for t in state.values()) == sum(p.numel() for p in model.parameters())
    save_file(state, tmp_path / "model.safetensors")
    again = make_model(family, "ForMaskedLM", seed=1)
    use_blocks(again)
    load_state(again, tmp_path / "model.safetensors")
    theirs = again.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, theirs[name])


def _linears():
    return nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 3))


ODD = {
    "missing": (lambda s: s.pop("1.bias"), "tensor 1.bias is missing"),
    "more": (lambda s: s.update({"0.scale": torch.zeros(1)}), "tensor 0.scale has no place"),
    "renamed": (lambda s: s.update({"a.weight": s.pop("1.weight")}), "tensor 1.weight is missing"),
    "shape": (
        lambda s: s.update({"0.weight": torch.zeros(2, 2)}),
        r"tensor 0.weight is float32 \(2, 2\), not float32 \(2, 3\)",
    ),
    "broadcast": (lambda s: s.update({"0.bias": torch.zeros(1)}), "tensor 0.bias is float32"),
    "type": (
        lambda s: s.update({"1.weight": s["1.weight"].half()}),
        r"tensor 1.weight is float16 \(3, 2\), not float32 \(3, 2\)",
    ),
    "two": (lambda s: (s.pop("1.weight"), s.pop("0.weight")), "tensor 0.weight is missing"),
}


@pytest.mark.parametrize("odd", ODD)
def test_what_does_not_fit_is_refused_and_changes_nothing(odd, tmp_path):
    change, says = ODD[odd]
    state = state_to_save(_linears())
    change(state)
    save_file(state, tmp_path / "model.safetensors")
    model = _linears()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=f"does not fit the model: {says}"):
        load_state(model, tmp_path / "model.safetensors")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_shared_tensor_stored_twice_is_refused(tmp_path):
    model = _linears()
    model[1].weight = nn.Parameter(torch.zeros(2, 3))
    model[1].weight = model[0].weight
    state = state_to_save(model)
    assert "1.weight" not in state
    with pytest.raises(CheckpointError, match=r"1\.weight has no place"):
        fill(model, state | {"1.weight": torch.zeros(2, 3)}, tmp_path)


def test_damaged_files_are_told(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match="is missing"):
        load_state(_linears(), path)
    save_file(state_to_save(_linears()), path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load_state(_linears(), path)
    path.write_bytes(b"not a tensor")
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load_state(_linears(), path)


def test_tied_weights_stay_tied(make_model, tmp_path):
    model, other = make_model("bert", "ForMaskedLM"), make_model("bert", "ForMaskedLM", seed=1)
    save_file(state_to_save(model), tmp_path / "model.safetensors")
    assert "cls.predictions.decoder.weight" not in load_file(tmp_path / "model.safetensors")
    load_state(other, tmp_path / "model.safetensors")
    assert other.cls.predictions.decoder.weight is other.get_input_embeddings().weight
    assert torch.equal(other.get_input_embeddings().weight, model.get_input_embeddings().weight)
