"""Self-attention between the projections and the output, in full precision; masks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bipft_compress.nn.positions import relative_index, relative_offsets, within_window
from bipft_compress.spec import AttentionSpec


def read_mask(mask: Tensor | None, query: Tensor, window: int | None) -> Tensor | None:
    """A mask in the one form that scores take.

    Args:
        mask: (batch, keys), true or 1 at real tokens; or (batch, 1, queries or 1, keys), boolean
            or added to scores, as transformers makes it; None for everywhere.
        query: (..., length, head_dim).
        window: see `AttentionSpec`.

    Returns:
        What broadcasts against (batch, heads, queries, keys), boolean and true where attention is
        allowed, or additive; None for everywhere.
    """
    if mask is not None and mask.dim() == 2:
        mask = mask[:, None, None, :].bool()
    length = query.shape[-2]
    if window is None or window >= length - 1:
        return mask
    near = within_window(length, window, query.device)
    if mask is None:
        return near
    if mask.dtype == torch.bool:
        return mask & near
    return mask.masked_fill(~near, torch.finfo(mask.dtype).min)


def mask_scores(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Scores that softmax makes 0 where `mask`, of `read_mask`, forbids attention."""
    if mask is None:
        return scores
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores + mask


class Attention(nn.Module):
    """What both precisions share: the arguments, and what is added to scores.

    Args:
        spec: of the attention.
    """

    def __init__(self, spec: AttentionSpec) -> None:
        super().__init__()
        self.spec = spec
        self.position_key = self.position_query = None
        if spec.relative is not None:
            shape = spec.heads, 2 * spec.relative.span, spec.head_dim
            if spec.relative.keys:
                self.position_key = nn.Parameter(torch.zeros(shape))
            if spec.relative.queries:
                self.position_query = nn.Parameter(torch.zeros(shape))

    def scores(
        self, query: Tensor, key: Tensor, bias: Tensor | None = None, hidden: Tensor | None = None
    ) -> Tensor:
        """Scores before mask and softmax, (batch, heads, queries, keys).

        Args:
            query: (batch, heads, length, head_dim).
            key: (batch, key_value_heads, length, head_dim).
            bias: broadcasts against the scores; None for none.
            hidden: what queries were projected from, (batch, length, hidden): what a
                `SharedEstimator` reads.
        """
        raise NotImplementedError

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> Tensor:
        """Context per head, (batch, heads, length, head_dim).

        Args:
            query: (batch, heads, length, head_dim).
            key: (batch, key_value_heads, length, head_dim).
            value: like `key`.
            mask: see `read_mask`.
            bias: see `scores`.
            hidden: see `scores`.
        """
        raise NotImplementedError

    def for_every_head(self, x: Tensor) -> Tensor:
        """Keys or values (batch, key_value_heads, ...), repeated for the heads that share them."""
        groups = self.spec.heads // self.spec.key_value_heads
        return x if groups == 1 else x.repeat_interleave(groups, 1)

    def _with_positions(self, x: Tensor, table: Tensor, *, of_keys: bool) -> Tensor:
        """Products of contents with the position table's row for their distance.

        Args:
            x: queries or keys, (batch, heads, length, head_dim).
            table: (heads, rows, head_dim).
            of_keys: `x` are keys.

        Returns:
            (batch, heads, queries, keys).
        """
        spec, length = self.spec.relative, x.shape[-2]
        assert spec is not None
        offsets = relative_offsets(spec, length)
        first, last = int(offsets[0]), int(offsets[-1])
        products = x @ table[:, first : last + 1].transpose(-1, -2)
        index = relative_index(spec, length, x.device) - first
        if of_keys:
            index = index.T
        picked = products.gather(-1, index.expand(*products.shape[:2], -1, -1))
        return picked.transpose(-1, -2) if of_keys else picked


class FullAttention(Attention):
    """Softmax attention in full precision, as the families compute it."""

    def scores(
        self, query: Tensor, key: Tensor, bias: Tensor | None = None, hidden: Tensor | None = None
    ) -> Tensor:
        key = self.for_every_head(key)
        scores = query @ key.transpose(-1, -2)
        if self.position_key is not None:
            scores = scores + self._with_positions(query, self.position_key, of_keys=False)
        if self.position_query is not None:
            scores = scores + self._with_positions(key, self.position_query, of_keys=True)
        scores = scores * self.spec.score_scale
        return scores if bias is None else scores + bias

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> Tensor:
        return self.probabilities(query, key, mask, bias) @ self.for_every_head(value)

    def probabilities(
        self, query: Tensor, key: Tensor, mask: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        """Softmax of the scores, (batch, heads, queries, keys); arguments as for `forward`."""
        mask = read_mask(mask, query, self.spec.window)
        return mask_scores(self.scores(query, key, bias), mask).softmax(-1)
