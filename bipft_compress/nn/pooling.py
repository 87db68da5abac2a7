"""From the hidden states of a text's tokens to one vector, as sentence-transformers does it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Pool = Callable[[Tensor, Tensor], Tensor]
"""Hidden states, (batch, length, hidden), and mask, (batch, length), true or 1 at real tokens, to
one vector a text, (batch, hidden) or wider where several are joined."""


def mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """The mean of the hidden states of real tokens: what a head over a binary encoder reads best.

    Args:
        hidden: (batch, length, hidden).
        mask: (batch, length), true or 1 at real tokens; or a weight of each, for a weighted mean.

    Returns:
        (batch, hidden).
    """
    weights = mask.to(hidden.dtype).unsqueeze(-1)
    # A text without a real token has the mean 0.
    return (hidden * weights).sum(1) / weights.sum(1).clamp_min(torch.finfo(hidden.dtype).tiny)


def _first(hidden: Tensor, mask: Tensor) -> Tensor:
    return _row(hidden, mask.to(torch.int).argmax(1))


def _last(hidden: Tensor, mask: Tensor) -> Tensor:
    return _row(hidden, mask.shape[1] - 1 - mask.to(torch.int).flip(1).argmax(1))


def _row(hidden: Tensor, index: Tensor) -> Tensor:
    return hidden[torch.arange(len(hidden), device=hidden.device), index]


def _largest(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden.masked_fill(~mask.bool().unsqueeze(-1), -torch.inf).amax(1)


def _weighted_by_position(hidden: Tensor, mask: Tensor) -> Tensor:
    # The n-th token counts n times.
    return mean_pool(hidden, mask.cumsum(1) * mask)


def _over_root_of_length(hidden: Tensor, mask: Tensor) -> Tensor:
    return mean_pool(hidden, mask) * mask.sum(1, keepdim=True).to(hidden.dtype).sqrt()


POOLINGS: dict[str, Pool] = {
    "mean": mean_pool,
    "cls": _first,
    "max": _largest,
    "weightedmean": _weighted_by_position,
    "mean_sqrt_len": _over_root_of_length,
    "lasttoken": _last,
}
"""By the names that sentence-transformers gives them, without the ending ``_tokens``."""


def joined(names: tuple[str, ...]) -> Pool:
    """The vectors of several of `POOLINGS` beside each other, as sentence-transformers joins them.

    Raises:
        KeyError: there is no such pooling.
    """
    parts = [POOLINGS[name] for name in names]
    return lambda hidden, mask: torch.cat([part(hidden, mask) for part in parts], dim=-1)
