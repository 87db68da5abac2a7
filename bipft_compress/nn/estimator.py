"""Low-rank residual estimators: what the binary product leaves out, added back in a few ranks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

START_SPREAD = 0.02
"""Standard deviation of what is drawn at random: BERT's own (Devlin et al. 2019)."""


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


class SharedEstimator(nn.Module):
    """The estimators of BiPFT-B: projections of the hidden states, shared by all heads.

    The residual polynomial ``Qb Ek^T + Eq Kb^T + Eq Ek^T`` is modelled by small projections of the
    hidden states x, two a side: ``main`` for the binary part and ``residual`` for what it leaves
    out; another one models the residual of the values (BiPFT, Xing et al. 2024, section 3.3,
    which has rank 1). Starts at zero: see `start`.

    Args:
        hidden_size: width of the hidden states.
        head_dim: width of a head.
        score_rank: of each projection for the scores; 0 for none.
        context_rank: of the projection for the values; 0 for none.
    """

    def __init__(self, hidden_size: int, head_dim: int, score_rank: int, context_rank: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.score_rank, self.context_rank = score_rank, context_rank
        if score_rank:
            self.query_main = nn.Parameter(torch.zeros(hidden_size, score_rank))
            self.query_residual = nn.Parameter(torch.zeros(hidden_size, score_rank))
            self.key_main = nn.Parameter(torch.zeros(hidden_size, score_rank))
            self.key_residual = nn.Parameter(torch.zeros(hidden_size, score_rank))
        if context_rank:
            self.value_down = nn.Parameter(torch.zeros(hidden_size, context_rank))
            self.value_up = nn.Parameter(torch.zeros(context_rank, head_dim))

    @property
    def rank(self) -> int:
        return max(self.score_rank, self.context_rank)

    @torch.no_grad()
    def start(self, *, at_random: bool, spread: float = START_SPREAD) -> None:
        """Draw the projections; unless `at_random`, those that make the sum differ from 0 stay 0.

        Half of them must differ from zero, or none would ever get a gradient.
        """
        for name, parameter in self.named_parameters():
            if at_random or name in ("query_main", "key_main", "value_down"):
                parameter.normal_(0.0, spread)

    def scores(self, hidden: Tensor) -> Tensor:
        """Residual scores (batch, 1, queries, keys) of hidden states (batch, length, hidden)."""
        query_main, query_residual = hidden @ self.query_main, hidden @ self.query_residual
        key_main, key_residual = hidden @ self.key_main, hidden @ self.key_residual
        # q_m k_p^T + q_p k_m^T + q_p k_p^T as one product.
        queries = torch.cat([query_main + query_residual, query_residual], -1)
        keys = torch.cat([key_residual, key_main], -1)
        return (queries @ keys.transpose(-1, -2)).unsqueeze(1)

    def context(self, probabilities: Tensor, hidden: Tensor) -> Tensor:
        """Residual context (batch, heads, queries, head_dim) of the same."""
        return (probabilities @ (hidden @ self.value_down).unsqueeze(1)) @ self.value_up


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

    @torch.no_grad()
    def start(self, *, at_random: bool, spread: float = START_SPREAD) -> None:
        """Draw both maps, or only the first: the sum is 0 then, but gets a gradient."""
        self.left.normal_(0.0, spread)
        if at_random:
            self.right.normal_(0.0, spread)

    @property
    def rank(self) -> int:
        return self.left.shape[-1]

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        """Residual scores (batch, heads, queries, keys) of q and k (batch, heads, length, dim)."""
        return (query @ self.left) @ (key @ self.right).transpose(-1, -2)

    def context(self, probabilities: Tensor, value: Tensor) -> Tensor:
        """Residual context (batch, heads, queries, dim); the rank is what the product mixes."""
        return (probabilities @ (value @ self.left)) @ self.right.transpose(-1, -2)
