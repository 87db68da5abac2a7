"""What one packed encoder layer is made of, whatever the family: the runtime's only input."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LowRank:
    """A low-rank map ``x -> up (down x)``: see `nn.LowRankEstimator`."""

    down: Tensor
    """(rank, in), fp32."""
    up: Tensor
    """(out, rank), fp32."""


@dataclass(frozen=True)
class LinearParameters:
    """A binary linear layer with packed weights: see `nn.BinaryLinear`. Vectors are fp32."""

    bits: Tensor
    """Signs of the weights, (out, ceil(in / 8)), uint8, in the order of `runtime.bits`."""
    in_features: int
    shift: Tensor
    """(in,)"""
    activation_scale: float
    weight_scale: Tensor
    """(out,)"""
    bias: Tensor
    """(out,)"""
    estimator: LowRank | None = None

    @property
    def out_features(self) -> int:
        return self.bits.shape[0]


@dataclass(frozen=True)
class HeadwiseLowRank:
    """Two low-rank maps per head, each (heads, head_dim, rank): see `nn.HeadwiseEstimator`."""

    left: Tensor
    right: Tensor


@dataclass(frozen=True)
class SharedLowRank:
    """Projections of the hidden states for all heads: see `nn.SharedEstimator`. All fp32."""

    queries: Tensor | None
    """(hidden, 2 * rank): ``query_main + query_residual`` and ``query_residual`` side by side."""
    keys: Tensor | None
    """(hidden, 2 * rank): ``key_residual`` and ``key_main``."""
    value_down: Tensor | None
    """(hidden, rank)"""
    value_up: Tensor | None
    """(rank, head_dim)"""


@dataclass(frozen=True)
class AttentionParameters:
    """Binary attention between the projections: see `nn.BinaryAttention`. All fp32."""

    heads: int
    head_dim: int
    query_shift: Tensor
    """(heads, head_dim), as key_shift, value_shift, value_scale and context_bias."""
    key_shift: Tensor
    value_shift: Tensor
    value_scale: Tensor
    context_bias: Tensor
    query_clip: Tensor
    """(heads,), as all that follow up to the estimators."""
    key_clip: Tensor
    value_clip: Tensor
    score_scale: Tensor
    probability_scale: Tensor
    probability_shift: Tensor
    score_estimator: HeadwiseLowRank | None = None
    context_estimator: HeadwiseLowRank | None = None
    shared_estimator: SharedLowRank | None = None
    boolean: bool = False
    """Bi-Attention, without softmax."""


@dataclass(frozen=True)
class NormParameters:
    """A LayerNorm; fp32, both (hidden,)."""

    weight: Tensor
    bias: Tensor
    eps: float


@dataclass(frozen=True)
class LayerParameters:
    """One encoder layer."""

    linears: dict[str, LinearParameters]
    """By kind: see `families.LINEAR_KINDS`."""
    attention: AttentionParameters
    attention_norm: NormParameters
    output_norm: NormParameters
    activation: str
    """Between the two ffn linears; a name of transformers' ``ACT2FN``."""
    bits: int = 1
    """Of activations, queries and probabilities: 1, 2, 4 or 8."""
    key_value_bits: int = 1
