"""The module that runs one packed encoder layer inside a transformers model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers.masking_utils import AttentionMaskInterface

from bipft_compress.families import LINEAR_KINDS
from bipft_compress.nn.attention import SMALLEST_SCALE
from bipft_compress.runtime import reference
from bipft_compress.runtime.native import REFERENCE, chosen_path
from bipft_compress.runtime.ops import encoder_layer
from bipft_compress.runtime.parameters import (
    AttentionParameters,
    HeadwiseLowRank,
    LayerParameters,
    LinearParameters,
    LowRank,
    NormParameters,
    SharedLowRank,
)
from bipft_compress.runtime.program import compile_layer

MASKS = "bipft_packed"
"""Attention by this name makes transformers hand on the mask of tokens as it is."""

logger = logging.getLogger("bipft_compress")


@dataclass(frozen=True)
class LayerFacts:
    """What the configuration and the recipe say of a layer, beside its tensors."""

    heads: int
    head_dim: int
    eps: float
    activation: str
    bits: int
    key_value_bits: int
    boolean: bool = False


def layer_parameters(tensors: Mapping[str, Tensor], facts: LayerFacts) -> LayerParameters:
    """What the runtime computes with, from packed tensors.

    Args:
        tensors: names as in ``query.weight``, ``ffn_up.estimator.down``, ``attention.key_shift``,
            ``output_norm.bias``: part of the layer, and what it is in `nn`.
        facts: of the layer.
    """
    return LayerParameters(
        linears={kind: _linear(_below(tensors, kind)) for kind in LINEAR_KINDS},
        attention=_attention(_below(tensors, "attention"), facts),
        attention_norm=_norm(_below(tensors, "attention_norm"), facts),
        output_norm=_norm(_below(tensors, "output_norm"), facts),
        activation=facts.activation,
        bits=facts.bits,
        key_value_bits=facts.key_value_bits,
    )


def _below(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Tensors of `part`, its name taken off; numbers in fp32."""
    return {
        name.removeprefix(f"{part}."): tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{part}.")
    }


def _linear(own: Mapping[str, Tensor]) -> LinearParameters:
    estimator = None
    if "estimator.down" in own:
        estimator = LowRank(own["estimator.down"], own["estimator.up"])
    return LinearParameters(
        bits=own["weight"],
        in_features=own["shift"].shape[0],
        shift=own["shift"],
        activation_scale=own["activation_scale"].item(),
        weight_scale=own["weight_scale"],
        bias=own["bias"],
        estimator=estimator,
    )


def _attention(own: Mapping[str, Tensor], facts: LayerFacts) -> AttentionParameters:
    def headwise(name: str) -> HeadwiseLowRank | None:
        if f"{name}.left" not in own:
            return None
        return HeadwiseLowRank(own[f"{name}.left"], own[f"{name}.right"])

    def shared() -> SharedLowRank | None:
        part = _below(own, "shared_estimator")
        if not part:
            return None
        queries = keys = None
        if "query_main" in part:
            # The sum before the product, as in training: rounding must not differ.
            residual = part["query_residual"]
            queries = torch.cat([part["query_main"] + residual, residual], 1)
            keys = torch.cat([part["key_residual"], part["key_main"]], 1)
        return SharedLowRank(queries, keys, part.get("value_down"), part.get("value_up"))

    by_channel = ("query_shift", "key_shift", "value_shift", "value_scale", "context_bias")
    by_head = ("query_clip", "key_clip", "value_clip", "score_scale")
    scale = own["probability_scale"].flatten().clamp_min(SMALLEST_SCALE)
    learned = own.get("probability_shift")
    return AttentionParameters(
        heads=facts.heads,
        head_dim=facts.head_dim,
        **{name: own[name].squeeze(1) for name in by_channel},
        **{name: own[name].flatten() for name in by_head},
        probability_scale=scale,
        probability_shift=torch.zeros_like(scale) if learned is None else learned.flatten(),
        score_estimator=headwise("score_estimator"),
        context_estimator=headwise("context_estimator"),
        shared_estimator=shared(),
        boolean=facts.boolean,
    )


def _norm(own: Mapping[str, Tensor], facts: LayerFacts) -> NormParameters:
    return NormParameters(own["weight"], own["bias"], facts.eps)


class PackedLayer(nn.Module):
    """One encoder layer on packed bits; for inference.

    Its buffers are the packed tensors, dots in their names replaced.

    Args:
        tensors: see `layer_parameters`.
        facts: of the layer.
    """

    def __init__(self, tensors: Mapping[str, Tensor], facts: LayerFacts) -> None:
        super().__init__()
        self.facts = facts
        self._names = tuple(tensors)
        for name, tensor in tensors.items():
            self.register_buffer(name.replace(".", "_"), tensor)
        self._parameters_read: LayerParameters | None = None

    @property
    def layer(self) -> LayerParameters:
        """The parameters of this layer, put together at the first use."""
        if self._parameters_read is None:
            tensors = {name: getattr(self, name.replace(".", "_")) for name in self._names}
            self._parameters_read = layer_parameters(tensors, self.facts)
        return self._parameters_read

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._parameters_read = None  # the buffers move to another device or type
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    @torch.no_grad()
    def forward(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """Hidden states after this layer: see `reference.encoder_layer`."""
        return reference.encoder_layer(x, key_mask, self.layer)

    def extra_repr(self) -> str:
        size = sum(buffer.nbytes for buffer in self.buffers())
        return f"{size:,} bytes, {self.facts.bits}-bit activations"


class CompiledLayer(nn.Module):
    """One encoder layer in the form that the compiled kernels run; for inference on a CPU.

    Args:
        program: of `program.compile_layer`; all that is kept.
        path: the processor it was compiled for.
    """

    def __init__(self, program: Tensor, path: str) -> None:
        super().__init__()
        self.path = path
        self.program: Tensor
        self.register_buffer("program", program)

    @torch.no_grad()
    def forward(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """Hidden states after this layer: see `reference.encoder_layer`."""
        return encoder_layer(x.float(), key_mask, self.program).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.program.nbytes:,} bytes, {self.path}"


def make_layer(tensors: Mapping[str, Tensor], facts: LayerFacts) -> PackedLayer | CompiledLayer:
    """A layer on the fastest path of this machine: see `native.chosen_path`.

    Args:
        tensors: see `layer_parameters`.
        facts: of the layer.
    """
    path = chosen_path()
    if path != REFERENCE:
        program = compile_layer(layer_parameters(tensors, facts), path)
        if program is not None:
            return CompiledLayer(program, path)
        logger.info("the kernels do not know a part of this model's layers: using the reference")
    return PackedLayer(tensors, facts)


def _of_tokens(*, attention_mask: Tensor | None = None, **_: Any) -> Tensor | None:
    """The mask of tokens as it is: the kernels want no mask of pairs."""
    return attention_mask


AttentionMaskInterface.register(MASKS, _of_tokens)


def run_packed(
    self: nn.Module, hidden_states: Tensor, attention_mask: Tensor | None = None, *_: Any, **__: Any
) -> Tensor:
    """The `forward` of a transformers layer whose only child, ``packed``, is of `make_layer`.

    Raises:
        ValueError: a mask of pairs of tokens.
    """
    if attention_mask is not None and attention_mask.dim() != 2:
        raise ValueError("a packed model takes masks of tokens (batch, length), no others")
    packed: PackedLayer | CompiledLayer = self.packed  # type: ignore[assignment]
    return packed(hidden_states, attention_mask)  # type: ignore[no-any-return]
