"""Random packed layers of any shape."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bipft_compress.runtime.bits import pack_signs
from bipft_compress.runtime.parameters import (
    AttentionParameters,
    HeadwiseLowRank,
    LayerParameters,
    LinearParameters,
    LowRank,
    NormParameters,
)


def make_layer(
    heads: int = 2,
    head_dim: int = 8,
    ffn: int = 24,
    *,
    bits: int = 1,
    key_value_bits: int = 1,
    ranks: dict[str, int] | None = None,
    activation: str = "gelu",
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
