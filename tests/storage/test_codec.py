"""Packed tensors: the training model's integers, there and back, in the bytes that are reported."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import save_file

from bipft_compress.nn import BinaryLinear
from bipft_compress.recipe import Recipe
from bipft_compress.reporting import build_report
from bipft_compress.storage.bits import unpack_signs
from bipft_compress.storage.codec import file_bytes, pack_state, packed_like, unpack_state
from bipft_compress.storage.plan import storage_plan

from ..packing import EVERYTHING

RECIPES = {
    "default": {},
    "everything": EVERYTHING,
    "sign": {"embeddings": {"code": "sign"}},
    "planes": {"embeddings": {"code": "sign", "bits": 3}, "weights": {"bits": 4}},
    "full": {"embeddings": {"code": "full"}, "kept": {"position_embeddings": 16, "pooler": 32}},
    "wide": {
        "kept": {"vectors": 32, "position_embeddings": 8, "pooler": 16},
        "estimators": EVERYTHING["estimators"] | {"bits": 32},
    },
}
# A head of its own differs in what is kept: its bits do not depend on those of the layers.
CASES = [(name, "ForMaskedLM") for name in RECIPES] + [
    (name, "ForSequenceClassification") for name in ("everything", "wide")
]


@pytest.fixture(params=CASES, ids="-".join)
def case(request):
    return request.param


@pytest.fixture
def recipe(case):
    return RECIPES[case[0]]


@pytest.fixture
def packed(case, recipe, family, make_binary):
    """A binary model, its plan, and its packed tensors."""
    pair = make_binary(family, case[1], recipe)
    plan = storage_plan(pair.student, pair.encoder, Recipe.load(recipe))
    return pair, plan, pack_state(pair.student.state_dict(), plan)


def test_there_and_back(packed, recipe, batches):
    pair, plan, tensors = packed
    state = pair.student.state_dict()
    unpacked = unpack_state(tensors, plan, state)
    assert unpacked.keys() == plan.keys()
    for name, storage in plan.items():
        like = packed_like(storage, state[name].shape)
        assert (tensors[storage.name].dtype, tensors[storage.name].shape) == (
            like.dtype,
            like.shape,
        )
        assert unpacked[name].shape == state[name].shape
        if storage.code in ("number", "bytes", "flags"):
            assert torch.equal(unpacked[name], state[name])
    again = copy.deepcopy(pair.student)
    again.load_state_dict(unpacked, strict=False)
    with torch.no_grad():
        assert torch.equal(again(batches[0])[0], pair.student(batches[0])[0])
    # What was unpacked packs to the same bits.
    assert all(
        torch.equal(tensor, tensors[name])
        for name, tensor in pack_state(again.state_dict(), plan).items()
    )


def test_the_report_counts_these_bytes(packed, recipe):
    pair, _, tensors = packed
    report = build_report(pair.teacher, Recipe.load(recipe), sequence_length=7)
    assert report.memory.compressed_bytes == sum(tensor.nbytes for tensor in tensors.values())


def test_the_signs_are_the_training_models_integers(make_binary, pack_in_memory):
    pair = make_binary("bert")
    tensors, _ = pack_in_memory(pair)
    x = torch.randn(5, 50, generator=torch.Generator().manual_seed(3))
    for name, module in pair.student.named_modules():
        if isinstance(module, BinaryLinear):
            some = x[:, : module.in_features]
            signs = unpack_signs(tensors[f"{name}.weight"], module.in_features)
            codes = torch.where(some >= module.shift, 1.0, -1.0)
            assert torch.equal(codes @ signs.T, module.accumulate(some))


def test_the_size_of_a_file_is_known_before_it_is_written(packed, tmp_path):
    pair, plan, tensors = packed
    save_file(tensors, tmp_path / "file", metadata={"format": "pt"})
    state = pair.student.state_dict()
    empty = {stored.name: packed_like(stored, state[name].shape) for name, stored in plan.items()}
    assert file_bytes(empty) == (tmp_path / "file").stat().st_size
