"""Word embeddings in few bits a weight.

An embedding is looked up, never multiplied: 1-bit arithmetic buys nothing here, only the bytes
count. And words follow Zipf's law, so equal bytes need not be equal bits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bipft_compress.nn.quantizers import LATENT_STEP, nearest_codes, weight_codes
from bipft_compress.nn.rounding import RowRounding


class CompressedEmbedding(nn.Module):
    """What every code of the word embeddings offers: rows by id, and the whole table."""

    num_embeddings: int
    embedding_dim: int

    def rows(self, ids: Tensor) -> Tensor:
        """The rows of `ids` (...), decoded, (..., embedding_dim)."""
        raise NotImplementedError

    def forward(self, ids: Tensor) -> Tensor:
        return self.rows(ids)

    @property
    def weight(self) -> Tensor:
        """The decoded table, (num_embeddings, embedding_dim), differentiable."""
        return self.rows(torch.arange(self.num_embeddings, device=self.device))

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"


class SignEmbedding(CompressedEmbedding):
    """Planes of signs and one scale a row: at one bit the papers' code (BinaryBERT, BiBERT, BiT).

    Args:
        num_embeddings: size of the vocabulary.
        embedding_dim: width of a row.
        bits: of a weight: 1 to 4; see `weight_codes`.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, bits: int = 1) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.bits = num_embeddings, embedding_dim, bits
        self.latent = nn.Parameter(torch.zeros(num_embeddings, embedding_dim))
        self.scale = nn.Parameter(torch.ones(num_embeddings, 1))

    @torch.no_grad()
    def initialise(self, table: Tensor) -> None:
        """Take the codes of the least squared error of `table`, (num_embeddings, embedding_dim)."""
        step = nearest_codes(table, self.bits)[1]
        self.latent.copy_(table / step * LATENT_STEP)
        self.scale.copy_(step)

    def rows(self, ids: Tensor) -> Tensor:
        latent, scale = F.embedding(ids, self.latent), F.embedding(ids, self.scale)
        return weight_codes(latent, self.bits) * scale

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, bits={self.bits}"


class FrequencyAwareEmbedding(CompressedEmbedding):
    """Frequent words in 4 bits a weight, all others by product quantization (Jégou et al. 2011).

    A rare row is cut into sub-vectors of `subvector` numbers, each replaced by the nearest of 256
    centroids, which are fitted with the words' frequencies as weights. Centroids, 4-bit rows and
    their scales stay trainable; the codes of the rare rows are frozen.

    Args:
        num_embeddings: size of the vocabulary.
        embedding_dim: width of a row.
        frequent_rows: how many rows are stored in 4 bits; at least 1, below `num_embeddings`.
        subvector: numbers that share one 8-bit code.
    """

    FREQUENT_BITS = 4
    CENTROIDS = 256
    CENTROID_BITS = 8

    def __init__(
        self, num_embeddings: int, embedding_dim: int, *, frequent_rows: int, subvector: int
    ) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.frequent_rows, self.subvector = frequent_rows, subvector
        self.parts = -(-embedding_dim // subvector)
        rare = num_embeddings - frequent_rows
        self.frequent = nn.Parameter(torch.zeros(frequent_rows, embedding_dim))
        self.rounding = RowRounding(frequent_rows, self.FREQUENT_BITS)
        self.codebooks = nn.Parameter(torch.zeros(self.parts, self.CENTROIDS, subvector))
        self.centroid_rounding = RowRounding(self.parts * self.CENTROIDS, self.CENTROID_BITS)
        self.codes: Tensor
        self.is_frequent: Tensor
        self.position: Tensor | None
        self.register_buffer("codes", torch.zeros(rare, self.parts, dtype=torch.uint8))
        self.register_buffer("is_frequent", torch.arange(num_embeddings) < frequent_rows)
        self.register_buffer("position", self._positions(self.is_frequent), persistent=False)
        self.register_load_state_dict_post_hook(_refresh)  # type: ignore[no-untyped-call]

    @staticmethod
    def _positions(is_frequent: Tensor) -> Tensor:
        # A row's place among its own kind: one stored bit a row instead of an index.
        return torch.where(is_frequent, is_frequent.cumsum(0), (~is_frequent).cumsum(0)) - 1

    def refresh(self) -> None:
        """Recompute what follows from `is_frequent`, after it was set or loaded."""
        self.position = self._positions(self.is_frequent)

    def rows(self, ids: Tensor) -> Tensor:
        if self.position is None:
            self.refresh()
        assert self.position is not None
        frequent, row = self.is_frequent[ids], self.position[ids]
        rows = self.rounding(self.frequent)
        common = F.embedding(torch.where(frequent, row, 0), rows)
        books = self.centroid_rounding(self.codebooks.flatten(0, 1))
        codes = self.codes[torch.where(frequent, 0, row)].long()
        offsets = torch.arange(self.parts, device=codes.device) * self.CENTROIDS
        rare = F.embedding(codes + offsets, books).flatten(-2)[..., : self.embedding_dim]
        return torch.where(frequent.unsqueeze(-1), common, rare)


def _refresh(module: FrequencyAwareEmbedding, _: object) -> None:
    module.refresh()


class TiedDecoder(nn.Module):
    """The output layer of a masked language model whose weights are the decoded word embeddings.

    Args:
        embedding: whose table it reads; not registered here, so that it is stored once.
        bias: (num_embeddings,), taken over from the replaced decoder.
    """

    def __init__(self, embedding: nn.Module, bias: nn.Parameter | None) -> None:
        super().__init__()
        self._embedding = (embedding,)
        self.bias = bias

    @property
    def weight(self) -> Tensor:
        """The decoded table, (num_embeddings, embedding_dim)."""
        weight = self._embedding[0].weight
        assert isinstance(weight, Tensor)
        return weight

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits (..., num_embeddings) of `hidden` (..., embedding_dim)."""
        return F.linear(hidden, self.weight, self.bias)
