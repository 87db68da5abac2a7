"""Mean pooling: what sentence embeddings are, and what a head over a binary encoder reads best."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """The mean of the hidden states of real tokens, (batch, hidden).

    Args:
        hidden: (batch, length, hidden).
        mask: (batch, length), true or 1 at real tokens; or a weight of each, for a weighted mean.
    """
    weights = mask.to(hidden.dtype).unsqueeze(-1)
    # A text without a real token has the mean 0.
    return (hidden * weights).sum(1) / weights.sum(1).clamp_min(torch.finfo(hidden.dtype).tiny)
