"""Self-attention between the projections and the output, on bits."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from bipft_compress.nn.attention import Attention, mask_scores, read_mask
from bipft_compress.nn.estimator import HeadwiseEstimator, SharedEstimator
from bipft_compress.nn.quantizers import (
    quantize_activation,
    quantize_boolean,
    quantize_probability,
    scaled_gradient,
    weight_sign,
)
from bipft_compress.spec import AttentionSpec

SMALLEST_SCALE = 1e-4
"""Of probabilities: one at or below zero would turn "attend to nothing" into "attend to padding".
"""


class BinaryAttention(Attention):
    """Attention whose products run on bits.

    ::

        qb, kb, vb = codes of (q - shift), (k - shift), (v - shift)
        score = score_scale * (qb . kb) + (q A)(k B)^T + terms of positions + mask
        p     = softmax(score);  pb = probability_scale * [p >= probability_scale / 2]
        ctx   = (pb . vb) * value_scale + context_bias + (pb . (v A)) B^T

    Probabilities use the {0, scale} set of BiT (Liu et al. 2022), with `elastic` also its learned
    threshold, ``p >= probability_shift + probability_scale / 2``. Queries and probabilities are
    the activation side of the products and have `bits` bits; keys and values are the weight side,
    packed like weights, with `key_value_bits`. Of disentangled positions, the tables are signs.

    With `boolean` there is no softmax and ``pb = probability_scale * [score >= 0]``: the
    Bi-Attention of BiBERT (Qin et al. 2022). With `from_hidden` the estimators read the hidden
    states instead of q, k and v: see `SharedEstimator`.

    Args:
        spec: of the attention.
        bits: bits of queries and probabilities: 1, 2, 4 or 8.
        key_value_bits: bits of keys and values: 1, 2, 4 or 8.
        score_rank: rank of the estimator of the scores, per head; 0 for none.
        context_rank: rank of the estimator of the context, per head; 0 for none.
        clip: see `quantize_activation`.
        elastic: learn the scales through the codes too, and the threshold of probabilities; see
            `quantize_activation` and `scaled_gradient`.
        boolean: Bi-Attention; `bits` must be 1.
        from_hidden: the estimators read the hidden states.
    """

    def __init__(
        self,
        spec: AttentionSpec,
        *,
        bits: int = 1,
        key_value_bits: int = 1,
        score_rank: int = 0,
        context_rank: int = 0,
        clip: float = 1.0,
        elastic: bool = False,
        boolean: bool = False,
        from_hidden: bool = False,
    ) -> None:
        super().__init__(spec)
        self.bits = bits
        self.key_value_bits = key_value_bits
        self.clip = clip
        self.elastic = elastic
        self.boolean = boolean
        heads, shared, head_dim = spec.heads, spec.key_value_heads, spec.head_dim
        self.query_shift = nn.Parameter(torch.zeros(heads, 1, head_dim))
        self.key_shift = nn.Parameter(torch.zeros(shared, 1, head_dim))
        self.value_shift = nn.Parameter(torch.zeros(shared, 1, head_dim))
        self.query_clip = nn.Parameter(torch.ones(heads, 1, 1))
        self.key_clip = nn.Parameter(torch.ones(shared, 1, 1))
        self.value_clip = nn.Parameter(torch.ones(shared, 1, 1))
        self.score_scale = nn.Parameter(torch.full((heads, 1, 1), spec.score_scale))
        self.position_key_scale = self._position_scale(self.position_key)
        self.position_query_scale = self._position_scale(self.position_query)
        self.probability_scale = nn.Parameter(torch.full((heads, 1, 1), 0.1))
        self.probability_shift = (
            nn.Parameter(torch.zeros(heads, 1, 1)) if elastic and not boolean else None
        )
        self.value_scale = nn.Parameter(torch.ones(heads, 1, head_dim))
        self.context_bias = nn.Parameter(torch.zeros(heads, 1, head_dim))

        def headwise(rank: int) -> HeadwiseEstimator | None:
            return HeadwiseEstimator(heads, head_dim, rank) if rank and not from_hidden else None

        self.score_estimator = headwise(score_rank)
        self.context_estimator = headwise(context_rank)
        self.shared_estimator = (
            SharedEstimator(spec.width, head_dim, score_rank, context_rank)
            if from_hidden and (score_rank or context_rank)
            else None
        )

    def _position_scale(self, table: nn.Parameter | None) -> nn.Parameter | None:
        shape = self.spec.heads, 1, 1
        return None if table is None else nn.Parameter(torch.full(shape, self.spec.score_scale))

    def _codes(self, x: Tensor, name: str, bits: int) -> Tensor:
        shift, scale = getattr(self, f"{name}_shift"), getattr(self, f"{name}_clip")
        if self.elastic:
            scale = scaled_gradient(scale, x.numel() // len(scale), bits)
        return quantize_activation(x - shift, scale, bits, self.clip, self.elastic)

    def position_signs(self, name: str) -> Tensor:
        """Signs of a position table, ``position_key`` or ``position_query``."""
        return weight_sign(getattr(self, name))

    def scores(
        self, query: Tensor, key: Tensor, bias: Tensor | None = None, hidden: Tensor | None = None
    ) -> Tensor:
        queries, keys = self._query_and_key_codes(query, key)
        # Integers first when it counts, see `BinaryLinear`; scales on the smaller side in training.
        if self.training:
            scores = (queries * self.score_scale) @ keys.transpose(-1, -2)
        else:
            scores = (queries @ keys.transpose(-1, -2)) * self.score_scale
        for name, term in self._position_terms(queries, keys):
            scores = scores + term * getattr(self, f"{name}_scale")
        if self.score_estimator is not None:
            scores = scores + self.score_estimator.scores(query, self.for_every_head(key))
        shared = self.shared_estimator
        if shared is not None and shared.score_rank:
            scores = scores + shared.scores(self._required(hidden))
        return scores if bias is None else scores + bias

    def _query_and_key_codes(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        keys = self.for_every_head(self._codes(key, "key", self.key_value_bits))
        return self._codes(query, "query", self.bits), keys

    def _position_terms(self, queries: Tensor, keys: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Name of each table of positions, and its integers, (batch, heads, queries, keys)."""
        if self.position_key is not None:
            table = self.position_signs("position_key")
            yield "position_key", self._with_positions(queries, table, of_keys=False)
        if self.position_query is not None:
            table = self.position_signs("position_query")
            yield "position_query", self._with_positions(keys, table, of_keys=True)

    @staticmethod
    def _required(hidden: Tensor | None) -> Tensor:
        if hidden is None:
            raise ValueError("estimators that heads share need the hidden states: pass `hidden`")
        return hidden

    @property
    def probability_step(self) -> Tensor:
        """The value of a probability's code 1, (heads, 1, 1); always positive."""
        return self.probability_scale.clamp_min(SMALLEST_SCALE)

    def _elastic(self, learned: Tensor, probabilities: Tensor) -> Tensor:
        if not self.elastic:
            return learned
        return scaled_gradient(learned, probabilities.numel() // self.spec.heads, self.bits)

    def probability_codes(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        """Codes of probabilities (batch, heads, queries, keys), 0 wherever the mask forbids.

        `mask` broadcasts against the scores: boolean, true where attention is allowed, or additive.
        """
        scores = mask_scores(scores, mask)
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
        values = self.for_every_head(self._codes(value, "value", self.key_value_bits))
        if self.training:
            context = (probability_codes * scale) @ (values * self.value_scale)
        else:
            context = (probability_codes @ values) * (scale * self.value_scale)
        context = context + self.context_bias
        if self.context_estimator is not None:
            mixed = probability_codes * scale
            value = self.for_every_head(value)
            context = context + self.context_estimator.context(mixed, value)
        shared = self.shared_estimator
        if shared is not None and shared.context_rank:
            mixed = probability_codes * scale
            context = context + shared.context(mixed, self._required(hidden))
        return context

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> Tensor:
        mask = read_mask(mask, query, self.spec.window)
        codes = self.probability_codes(self.scores(query, key, bias, hidden), mask)
        return self.context(codes, value, hidden)

    @torch.no_grad()
    def accumulate_scores(self, query: Tensor, key: Tensor) -> dict[str, Tensor]:
        """The integers that scores are made of, each (batch, heads, queries, keys).

        Returns:
            The name of the scale that each is multiplied with, to the integers.
        """
        queries, keys = self._query_and_key_codes(query, key)
        integers = {"score_scale": queries @ keys.transpose(-1, -2)}
        for name, term in self._position_terms(queries, keys):
            integers[f"{name}_scale"] = term
        return integers

    def extra_repr(self) -> str:
        return (
            f"heads={self.spec.heads}, head_dim={self.spec.head_dim}, bits={self.bits}, "
            f"key_value_bits={self.key_value_bits}"
        )
