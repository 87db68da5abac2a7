"""Low-rank residual estimators: what the binary product leaves out, added back in a few ranks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LowRankEstimator(nn.Module):
    """A linear map of small rank, ``x -> U (V x)``, next to a binary linear layer.

    It models the residual of binarization (BiPFT, Xing et al. 2024, section 3.3). Starts at zero.

    Args:
        in_features: width of the input.
        out_features: width of the output.
        rank: at least 1 and at most ``min(in_features, out_features)``.
    """

    def __init__(self, in_features: int, out_features: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.zeros(rank, in_features))
        self.up = nn.Parameter(torch.zeros(out_features, rank))

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` of shape (..., in) to (..., out)."""
        return F.linear(F.linear(x, self.down), self.up)


class HeadwiseEstimator(nn.Module):
    """Two low-rank maps per attention head, read from the queries, keys or values themselves.

    For scores: ``(q A)(k B)^T``, the bilinear residual of ``Q K^T``. For values: ``(p (v A)) B^T``,
    the residual of the context. Starts at zero.

    Args:
        heads: number of attention heads.
        head_dim: width of a head.
        rank: at least 1 and at most `head_dim`.
    """

    def __init__(self, heads: int, head_dim: int, rank: int) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.zeros(heads, head_dim, rank))
        self.right = nn.Parameter(torch.zeros(heads, head_dim, rank))

    @property
    def rank(self) -> int:
        return self.left.shape[-1]

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        """Residual scores (batch, heads, queries, keys) of q and k (batch, heads, length, dim)."""
        return (query @ self.left) @ (key @ self.right).transpose(-1, -2)

    def context(self, probabilities: Tensor, value: Tensor) -> Tensor:
        """Residual context (batch, heads, queries, dim); the rank is what the product mixes."""
        return (probabilities @ (value @ self.left)) @ self.right.transpose(-1, -2)
