"""Binary models whose numbers are storable, what they are packed to, and random packed layers."""

from __future__ import annotations

import copy
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from bipft_compress.convert.storage import round_to_stored, storage_plan
from bipft_compress.convert.swap import swap
from bipft_compress.families import Encoder
from bipft_compress.recipe import Recipe
from bipft_compress.record import Record
from bipft_compress.runtime.artefact import write_artefact
from bipft_compress.runtime.bits import pack_signs
from bipft_compress.runtime.codec import pack_state
from bipft_compress.runtime.model import Skeleton
from bipft_compress.runtime.native import PATH_VARIABLE, REFERENCE, paths
from bipft_compress.runtime.parameters import (
    AttentionParameters,
    HeadwiseLowRank,
    LayerParameters,
    LinearParameters,
    LowRank,
    NormParameters,
)

RANKS = {"query": 2, "value": 1, "attention_output": 3, "ffn_up": 2, "ffn_down": 1}
EVERYTHING = {
    "activations": {"bits": 4, "key_value_bits": 2},
    "embeddings": {"subvector": 5},
    "kept": {"position_embeddings": 4, "pooler": 4},
    "estimators": RANKS | {"key": 2, "scores": 2, "context": 3},
}
"""An estimator everywhere, and several bits."""


class Binary(NamedTuple):
    """A binary model, the original whose modules it has, and its parts."""

    student: PreTrainedModel
    teacher: PreTrainedModel
    encoder: Encoder


@pytest.fixture(params=sorted({paths()[0], REFERENCE}))
def path(request, monkeypatch):
    """The fastest path of this machine, and the reference."""
    monkeypatch.setenv(PATH_VARIABLE, request.param)
    return request.param


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
            if name.endswith("codes"):
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
        return tensors, Skeleton(config, chosen).fill(tensors)

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


def make_layer(
    heads: int = 2,
    head_dim: int = 8,
    ffn: int = 24,
    *,
    bits: int = 1,
    key_value_bits: int = 1,
    ranks: dict[str, int] | None = None,
    activation: str = "gelu",
    boolean: bool = False,
    seed: int = 0,
) -> LayerParameters:
    """A layer whose numbers have the sizes that fitted ones have.

    Args:
        ranks: of estimators, by kind of linear, ``scores`` and ``context``; 0 where missing.
    """
    generator = torch.Generator().manual_seed(seed)
    ranks = ranks or {}
    hidden = heads * head_dim

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=generator) * scale

    def positive(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) * 0.5 + 0.2

    def linear(kind: str, width: int, out: int) -> LinearParameters:
        rank = ranks.get(kind, 0)
        estimator = LowRank(normal(rank, width), normal(out, rank, scale=0.1)) if rank else None
        return LinearParameters(
            bits=pack_signs(normal(out, width)),
            in_features=width,
            shift=normal(width, scale=0.1),
            activation_scale=0.7,
            # Scales of either sign: training does not forbid them.
            weight_scale=normal(out, scale=width**-0.5),
            bias=normal(out, scale=0.2),
            estimator=estimator,
        )

    def headwise(name: str) -> HeadwiseLowRank | None:
        rank = ranks.get(name, 0)
        if not rank:
            return None
        shape = heads, head_dim, rank
        return HeadwiseLowRank(normal(*shape, scale=0.3), normal(*shape, scale=0.3))

    def norm() -> NormParameters:
        return NormParameters(positive(hidden) + 0.5, normal(hidden, scale=0.1), 1e-12)

    up_and_down = {"ffn_up": (hidden, ffn), "ffn_down": (ffn, hidden)}
    shapes = dict.fromkeys(("query", "key", "value", "attention_output"), (hidden, hidden))
    return LayerParameters(
        linears={kind: linear(kind, *shape) for kind, shape in (shapes | up_and_down).items()},
        attention=AttentionParameters(
            heads=heads,
            head_dim=head_dim,
            query_shift=normal(heads, head_dim, scale=0.1),
            key_shift=normal(heads, head_dim, scale=0.1),
            value_shift=normal(heads, head_dim, scale=0.1),
            value_scale=positive(heads, head_dim),
            context_bias=normal(heads, head_dim, scale=0.1),
            query_clip=positive(heads),
            key_clip=positive(heads),
            value_clip=positive(heads),
            score_scale=positive(heads) * head_dim**-0.5,
            probability_scale=positive(heads) * 0.3,
            score_estimator=headwise("scores"),
            context_estimator=headwise("context"),
            boolean=boolean,
            probability_shift=normal(heads, scale=0.02),
        ),
        attention_norm=norm(),
        output_norm=norm(),
        activation=activation,
        bits=bits,
        key_value_bits=key_value_bits,
    )


@pytest.fixture(scope="session")
def random_layer():
    """`make_layer`: any shape, the same numbers for the same arguments."""
    return make_layer
