"""Binary models whose numbers are storable, and what they are packed to."""

from __future__ import annotations

import copy
from typing import NamedTuple

import pytest
import torch
from transformers import PreTrainedModel

from bipft_compress.checkpoint.artefact import write_artefact
from bipft_compress.checkpoint.record import Record
from bipft_compress.families import Encoder
from bipft_compress.recipe import Recipe
from bipft_compress.runtime.model import Skeleton, empty_model
from bipft_compress.storage.codec import pack_state
from bipft_compress.storage.plan import round_to_stored, storage_plan
from bipft_compress.structure.swap import swap

RANKS = {"query": 2, "value": 1, "attention_output": 3, "ffn_up": 2, "ffn_down": 1}
EVERYTHING = {
    "activations": {"bits": 4, "key_value_bits": 2},
    "embeddings": {"subvector": 5},
    "kept": {"position_embeddings": 4, "pooler": 4},
    "estimators": RANKS | {"key": 2, "scores": 2, "context": 3},
    "readout": {"rank": 3, "layers": 2, "bits": 4},
    "modules": {
        "attention.(query|key)": {"weights": 2, "activations": 2, "dynamic_scale": "rms"},
        "feed_forward.0.up": {"activations": 1},
        "feed_forward.0.down": {"weights": 3, "activations": 8, "dynamic_scale": "max"},
    },
}
"""An estimator everywhere, a readout, and several bits, not the same everywhere."""


class Binary(NamedTuple):
    """A binary model, the original whose modules it has, and its parts."""

    student: PreTrainedModel
    teacher: PreTrainedModel
    encoder: Encoder


@pytest.fixture(scope="session")
def make_binary(make_model):
    """`make_binary(family, head="Model", recipe={})`: storable random numbers."""

    def make(family: str, head: str = "Model", recipe: dict | None = None) -> Binary:
        teacher, chosen = make_model(family, head), Recipe.load(recipe or {})
        student = copy.deepcopy(teacher)
        encoder, _ = swap(student, chosen)
        generator = torch.Generator().manual_seed(5)
        state = student.state_dict()
        for name, tensor in state.items():
            if name.endswith(("codes", "importance")):
                tensor.random_(generator=generator)
            elif name.endswith("is_frequent"):
                tensor.copy_(tensor[torch.randperm(len(tensor), generator=generator)])
            elif name.endswith(("scale", "clip")):
                tensor.uniform_(0.05, 0.5, generator=generator)
            elif "LayerNorm" not in name and "layer_norm" not in name:
                tensor.normal_(0.0, 0.3, generator=generator)
        # Loading tells embeddings where their frequent rows are now.
        student.load_state_dict(state)
        round_to_stored(student, encoder, chosen)
        return Binary(student.eval(), teacher, encoder)

    return make


@pytest.fixture(scope="session")
def pack_in_memory():
    """`pack_in_memory(pair, recipe)`: the packed tensors, and the model that runs on them."""

    def pack(pair, recipe: dict | None = None):
        chosen = Recipe.load(recipe or {})
        plan = storage_plan(pair.student, pair.encoder, chosen)
        tensors = pack_state(pair.student.state_dict(), plan)
        config = pair.student.config
        config.architectures = [type(pair.student).__name__]
        return tensors, Skeleton(empty_model(config), chosen).fill(tensors)

    return pack


@pytest.fixture(scope="session")
def write_packed(make_binary, tokenizer):
    """`write_packed(directory, family, head="Model", recipe={})`: an artefact; its binary model."""

    def write(directory, family: str = "bert", head: str = "Model", recipe: dict | None = None):
        directory.mkdir()
        pair = make_binary(family, head, recipe)
        record = Record(recipe=Recipe.load(recipe or {}), teacher="teacher-dir")
        write_artefact(directory, pair.student, pair.encoder, tokenizer, record)
        return pair.student

    return write


@pytest.fixture(scope="session")
def padded() -> dict[str, torch.Tensor]:
    """Three sequences of 9, 14 and 3 tokens."""
    generator = torch.Generator().manual_seed(11)
    ids = torch.randint(5, 101, (3, 14), generator=generator)
    mask = (torch.arange(14) < torch.tensor([[9], [14], [3]])).long()
    return {"input_ids": torch.where(mask.bool(), ids, 1), "attention_mask": mask}
