"""What a family file says: how a layer of transformers' model is read into a block of ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig

from bipft_compress.nn.block import Block
from bipft_compress.spec import AttentionSpec, FeedForwardSpec, NormSpec

Forward = Callable[..., Any]


def forward_tensor(
    self: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, *_: Any, **__: Any
) -> Tensor:
    """The ``forward`` of a layer that returns its hidden states."""
    hidden: Tensor = self.block(hidden_states, mask=attention_mask)
    return hidden


def forward_tuple(
    self: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, *_: Any, **__: Any
) -> tuple[Tensor]:
    """The ``forward`` of a layer that returns a tuple."""
    return (self.block(hidden_states, mask=attention_mask),)


def once_each(config: PretrainedConfig, layers: int) -> list[int]:
    """Every layer is called once, in order."""
    return list(range(layers))


def nothing(base: Any) -> None:
    """Nothing else of the model changes."""


@dataclass(frozen=True)
class Family:
    """How models of one type become blocks.

    Attributes:
        layer: class name of its layers in transformers.
        read: a layer and its base model to a block that shares the layer's parameters.
        forward: the layer's own ``forward``, once `block` is its child: translates the arguments.
        keep: names of the layer's children that stay beside the block.
        finish: what else changes in the base model, after all its layers are blocks.
        calls: configuration and number of layers to the order in which they are called.
        positions_after_padding: the first position is the one after the padding index.
        note: what stays in full precision and would not be expected to, for the list of families.
    """

    layer: str
    read: Callable[[Any, Any], Block]
    forward: Forward = forward_tensor
    keep: tuple[str, ...] = ()
    finish: Callable[[Any], None] = nothing
    calls: Callable[[PretrainedConfig, int], list[int]] = once_each
    positions_after_padding: bool = False
    note: str = ""


def norm_spec(norm: nn.Module) -> NormSpec:
    """The description of a norm of transformers'."""
    weight: Any = norm.weight
    width = weight.shape[0]
    if isinstance(norm, nn.LayerNorm):
        return NormSpec(width, norm.eps, "layer", norm.bias is not None)
    eps: Any = getattr(norm, "variance_epsilon", None)
    if eps is None:
        return NormSpec(width, 0.0, "affine")
    if getattr(norm, "bias", None) is None:
        return NormSpec(width, eps, "rms", bias=False)
    return NormSpec(width, eps)


def attention_spec(
    query: nn.Linear,
    key: nn.Linear,
    value: nn.Linear,
    output: nn.Linear,
    heads: int,
    norm: nn.Module | None,
    **more: Any,
) -> AttentionSpec:
    """The description of an attention, from its linears.

    Args:
        query: like the next three, of the layer.
        key: as `query`.
        value: as `query`.
        output: as `query`.
        heads: number of heads. The head size follows from the weights, which some configurations
            contradict.
        norm: of this half of the layer.
        more: what differs from BERT's.
    """
    head_dim = query.out_features // heads
    return AttentionSpec(
        width=query.in_features,
        value_width=value.in_features,
        heads=heads,
        head_dim=head_dim,
        output_width=output.out_features,
        bias=(
            query.bias is not None,
            key.bias is not None,
            value.bias is not None,
            output.bias is not None,
        ),
        norm=None if norm is None else norm_spec(norm),
        **{
            "key_value_heads": key.out_features // head_dim,
            "score_scale": head_dim**-0.5,
            **more,
        },
    )


def feed_forward_spec(
    up: nn.Linear, down: nn.Linear, activation: Any, norm: nn.Module | None, **more: Any
) -> FeedForwardSpec:
    """The description of a feed-forward network, from its linears."""
    return FeedForwardSpec(
        width=down.out_features,
        inner=up.out_features,
        activation=str(activation),
        bias=(up.bias is not None, down.bias is not None),
        norm=None if norm is None else norm_spec(norm),
        **more,
    )
