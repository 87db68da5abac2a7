"""Binary self-attention: both products on bits, the mask respected."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bipft_compress.nn.estimator import HeadwiseEstimator, SharedEstimator
from bipft_compress.nn.quantizers import (
    quantize_activation,
    quantize_boolean,
    quantize_probability,
    scaled_gradient,
)

SMALLEST_SCALE = 1e-4
"""Of probabilities: one at or below zero would turn "attend to nothing" into "attend to padding".
"""


class BinaryAttention(nn.Module):
    """The arithmetic between the projections and the output: scores, probabilities, context.

    ::

        qb, kb, vb = codes of (q - shift), (k - shift), (v - shift)
        score = score_scale * (qb . kb) + (q A)(k B)^T + mask
        p     = softmax(score);  pb = probability_scale * [p >= probability_scale / 2]
        ctx   = (pb . vb) * value_scale + context_bias + (pb . (v A)) B^T

    Probabilities use the {0, scale} set of BiT (Liu et al. 2022), with `elastic` also its learned
    threshold, ``p >= probability_shift + probability_scale / 2``. Queries and probabilities are
    the activation side of the products and have `bits` bits; keys and values are the weight side,
    packed like weights, with `key_value_bits`.

    With `boolean` there is no softmax and ``pb = probability_scale * [score >= 0]``: the
    Bi-Attention of BiBERT (Qin et al. 2022). With `hidden_size` the estimators read the hidden
    states instead of q, k and v: see `SharedEstimator`.

    Args:
        heads: number of attention heads.
        head_dim: width of a head.
        bits: bits of queries and probabilities: 1, 2, 4 or 8.
        key_value_bits: bits of keys and values: 1, 2, 4 or 8.
        score_rank: rank of the estimator of the scores, per head; 0 for none.
        context_rank: rank of the estimator of the context, per head; 0 for none.
        clip: see `quantize_activation`.
        elastic: learn the scales through the codes too, and the threshold of probabilities; see
            `quantize_activation` and `scaled_gradient`.
        boolean: Bi-Attention; `bits` must be 1.
        hidden_size: width of the hidden states, for estimators that read them; 0 for those that
            read q, k and v.
    """

    def __init__(
        self,
        heads: int,
        head_dim: int,
        *,
        bits: int = 1,
        key_value_bits: int = 1,
        score_rank: int = 0,
        context_rank: int = 0,
        clip: float = 1.0,
        elastic: bool = False,
        boolean: bool = False,
        hidden_size: int = 0,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = head_dim
        self.bits = bits
        self.key_value_bits = key_value_bits
        self.clip = clip
        self.elastic = elastic
        self.boolean = boolean
        self.query_shift = nn.Parameter(torch.zeros(heads, 1, head_dim))
        self.key_shift = nn.Parameter(torch.zeros(heads, 1, head_dim))
        self.value_shift = nn.Parameter(torch.zeros(heads, 1, head_dim))
        self.query_clip = nn.Parameter(torch.ones(heads, 1, 1))
        self.key_clip = nn.Parameter(torch.ones(heads, 1, 1))
        self.value_clip = nn.Parameter(torch.ones(heads, 1, 1))
        self.score_scale = nn.Parameter(torch.full((heads, 1, 1), head_dim**-0.5))
        self.probability_scale = nn.Parameter(torch.full((heads, 1, 1), 0.1))
        self.probability_shift = (
            nn.Parameter(torch.zeros(heads, 1, 1)) if elastic and not boolean else None
        )
        self.value_scale = nn.Parameter(torch.ones(heads, 1, head_dim))
        self.context_bias = nn.Parameter(torch.zeros(heads, 1, head_dim))

        def headwise(rank: int) -> HeadwiseEstimator | None:
            return HeadwiseEstimator(heads, head_dim, rank) if rank and not hidden_size else None

        self.score_estimator = headwise(score_rank)
        self.context_estimator = headwise(context_rank)
        self.shared_estimator = (
            SharedEstimator(hidden_size, head_dim, score_rank, context_rank)
            if hidden_size and (score_rank or context_rank)
            else None
        )

    def _codes(self, x: Tensor, name: str, bits: int) -> Tensor:
        shift, scale = getattr(self, f"{name}_shift"), getattr(self, f"{name}_clip")
        if self.elastic:
            scale = scaled_gradient(scale, x.numel() // self.heads, bits)
        return quantize_activation(x - shift, scale, bits, self.clip, self.elastic)

    def scores(self, query: Tensor, key: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Scores before mask and softmax, (batch, heads, queries, keys).

        `hidden`, (batch, length, hidden), is what a `SharedEstimator` reads.
        """
        queries = self._codes(query, "query", self.bits)
        keys = self._codes(key, "key", self.key_value_bits).transpose(-1, -2)
        # Integers first when it counts, see `BinaryLinear`; scales on the smaller side in training.
        if self.training:
            scores = (queries * self.score_scale) @ keys
        else:
            scores = (queries @ keys) * self.score_scale
        if self.score_estimator is not None:
            scores = scores + self.score_estimator.scores(query, key)
        shared = self.shared_estimator
        if shared is not None and shared.score_rank and hidden is not None:
            scores = scores + shared.scores(hidden)
        return scores

    @property
    def probability_step(self) -> Tensor:
        """The value of a probability's code 1, (heads, 1, 1); always positive."""
        return self.probability_scale.clamp_min(SMALLEST_SCALE)

    def _elastic(self, learned: Tensor, probabilities: Tensor) -> Tensor:
        if not self.elastic:
            return learned
        return scaled_gradient(learned, probabilities.numel() // self.heads, self.bits)

    def probability_codes(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        """Codes of probabilities (batch, heads, queries, keys), 0 wherever the mask forbids.

        `mask` broadcasts against the scores: boolean, true where attention is allowed, or additive.
        """
        if mask is not None:
            if mask.dtype == torch.bool:
                scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
            else:
                scores = scores + mask
        if self.boolean:
            codes = quantize_boolean(scores)
        else:
            step = self._elastic(self.probability_step, scores)
            threshold = self.probability_shift
            shift = None if threshold is None else self._elastic(threshold, scores)
            codes = quantize_probability(scores.softmax(-1), step, self.bits, shift)
        if mask is not None:
            # A row that may attend to nothing has a uniform softmax: no code of it may survive.
            # An additive mask may carry finite position biases beside its "never".
            never = ~mask if mask.dtype == torch.bool else mask < torch.finfo(mask.dtype).min / 2
            codes = codes.masked_fill(never, 0.0)
        return codes

    def context(
        self, probability_codes: Tensor, value: Tensor, hidden: Tensor | None = None
    ) -> Tensor:
        """Context per head, (batch, heads, queries, head_dim); `hidden` as for `scores`."""
        scale = self._elastic(self.probability_step, probability_codes)
        values = self._codes(value, "value", self.key_value_bits)
        if self.training:
            context = (probability_codes * scale) @ (values * self.value_scale)
        else:
            context = (probability_codes @ values) * (scale * self.value_scale)
        context = context + self.context_bias
        if self.context_estimator is not None:
            context = context + self.context_estimator.context(probability_codes * scale, value)
        shared = self.shared_estimator
        if shared is not None and shared.context_rank and hidden is not None:
            context = context + shared.context(probability_codes * scale, hidden)
        return context

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> Tensor:
        """Context per head from q, k, v (batch, heads, length, head_dim); `hidden`: `scores`."""
        codes = self.probability_codes(self.scores(query, key, hidden), mask)
        return self.context(codes, value, hidden)

    @torch.no_grad()
    def accumulate_scores(self, query: Tensor, key: Tensor) -> Tensor:
        """The integers of the score product, (batch, heads, queries, keys)."""
        keys = self._codes(key, "key", self.key_value_bits)
        return self._codes(query, "query", self.bits) @ keys.transpose(-1, -2)

    def extra_repr(self) -> str:
        return (
            f"heads={self.heads}, head_dim={self.head_dim}, bits={self.bits}, "
            f"key_value_bits={self.key_value_bits}"
        )
