"""Tables and the pooler on packed bits: rows are decoded when, and only where, they are read.

Kernels decode them where there are any; what they must reproduce stands here in torch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bipft_compress.errors import CheckpointError
from bipft_compress.nn import CompressedEmbedding, TiedDecoder
from bipft_compress.runtime import ops
from bipft_compress.runtime.native import REFERENCE, chosen_path
from bipft_compress.storage.bits import unpack_fields, unpack_planes
from bipft_compress.storage.codec import decode_rows

_CHUNK_ROWS = 4096


class PackedEmbedding(CompressedEmbedding):
    """A table of packed rows; `weight` decodes all of it, for whoever must have it whole."""

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self._path = chosen_path()
        # Goes where the model is moved to: the device and the type of decoded rows.
        self.moved: Tensor
        self.register_buffer("moved", torch.empty(0), persistent=False)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._path = chosen_path()  # of this machine, where the pickle may not be from

    @property
    def path(self) -> str:
        """The path it decodes on: kernels serve the CPU and fp32 alone."""
        served = self.moved.device.type == "cpu" and self.moved.dtype == torch.float32
        return self._path if served else REFERENCE

    @property
    def device(self) -> torch.device:
        return next(self.buffers()).device


class PackedSignEmbedding(PackedEmbedding):
    """See `nn.SignEmbedding`.

    Args:
        packed: codes of the rows: see `storage.bits.pack_planes`.
        scale: (rows, 1).
        bits: of a weight.
        columns: numbers of a row.
    """

    packed: Tensor
    scale: Tensor

    def __init__(self, packed: Tensor, scale: Tensor, bits: int, columns: int) -> None:
        super().__init__(packed.shape[-2], columns)
        self.bits = bits
        self.register_buffer("packed", packed)
        self.register_buffer("scale", scale)

    def rows(self, ids: Tensor) -> Tensor:
        planes = self.packed.view(self.bits, self.num_embeddings, -1)
        if self.path == REFERENCE:
            codes = unpack_planes(
                planes[:, ids].squeeze(0) if self.bits == 1 else planes[:, ids],
                self.bits,
                self.embedding_dim,
            )
            return (codes * self.scale[ids].float()).to(self.moved.dtype)
        parts = [
            ops.rows(ids, plane, self.scale * 2**number, 1, self.embedding_dim, self.path)
            for number, plane in enumerate(planes)
        ]
        return torch.stack(parts).sum(0) if self.bits > 1 else parts[0]


class PackedRoundedEmbedding(PackedEmbedding):
    """An embedding whose rows a `nn.RowRounding` rounded.

    Args:
        packed: (rows, ceil(columns * bits / 8)), uint8.
        scale: (rows, 1).
        bits: of a stored number.
        columns: numbers of a row.
    """

    packed: Tensor
    scale: Tensor

    def __init__(self, packed: Tensor, scale: Tensor, bits: int, columns: int) -> None:
        super().__init__(packed.shape[0], columns)
        self.bits = bits
        self.register_buffer("packed", packed)
        self.register_buffer("scale", scale)

    def rows(self, ids: Tensor) -> Tensor:
        if self.path != REFERENCE:
            return ops.rows(ids, self.packed, self.scale, self.bits, self.embedding_dim, self.path)
        rows = decode_rows(self.packed[ids], self.scale[ids], self.bits, self.embedding_dim)
        return rows.to(self.moved.dtype)


class PackedFrequencyAwareEmbedding(PackedEmbedding):
    """See `nn.FrequencyAwareEmbedding`.

    Args:
        frequent: the frequent rows.
        books: centroids of all parts as rows of one table.
        codes: centroid of each part of the rare rows, (rare rows, parts), uint8.
        is_frequent: one bit a row, (ceil(rows / 8),), uint8.
        columns: numbers of a row.
    """

    codes: Tensor
    is_frequent: Tensor
    before: Tensor | None

    def __init__(
        self,
        frequent: PackedRoundedEmbedding,
        books: PackedRoundedEmbedding,
        codes: Tensor,
        is_frequent: Tensor,
        columns: int,
    ) -> None:
        super().__init__(frequent.num_embeddings + codes.shape[0], columns)
        self.frequent, self.books = frequent, books
        self.register_buffer("codes", codes)
        self.register_buffer("is_frequent", is_frequent)
        # Frequent rows before each byte's first: an index of every row would outweigh the bits.
        self.register_buffer("before", None, persistent=False)

    def refresh(self) -> None:
        """Work out what follows from `is_frequent`, once it is there.

        Raises:
            CheckpointError: it does not mark as many rows as there are frequent ones.
        """
        counts = unpack_fields(self.is_frequent, 1, 8 * len(self.is_frequent)).view(-1, 8).sum(1)
        marked = int(unpack_fields(self.is_frequent, 1, self.num_embeddings).sum())
        rows = self.frequent.num_embeddings
        if marked != rows:
            raise CheckpointError(
                f"is_frequent marks {marked} rows where there are {rows}: the artefact was "
                "changed; pack the checkpoint again."
            )
        self.before = (counts.cumsum(0) - counts).to(torch.int32)

    def rows(self, ids: Tensor) -> Tensor:
        if self.before is None:
            self.refresh()
        assert self.before is not None
        if self.path == REFERENCE:
            return self._reference_rows(ids, self.before)
        frequent, books = self.frequent, self.books
        return ops.words(
            ids,
            [frequent.packed, frequent.scale],
            [books.packed, books.scale],
            [self.codes, self.is_frequent, self.before],
            [frequent.bits, books.bits, books.embedding_dim, self.embedding_dim],
            self.path,
        )

    def _reference_rows(self, ids: Tensor, before: Tensor) -> Tensor:
        byte, bit = ids // 8, ids % 8
        flags = unpack_fields(self.is_frequent[byte].unsqueeze(-1), 1, 8)
        frequent = flags.gather(-1, bit.unsqueeze(-1)).squeeze(-1).bool()
        earlier = torch.arange(8, device=ids.device) < bit.unsqueeze(-1)
        rank = before[byte] + (flags * earlier).sum(-1)
        common = self.frequent.rows(torch.where(frequent, rank, 0))
        codes = self.codes[torch.where(frequent, 0, ids - rank)].long()
        parts = torch.arange(codes.shape[-1], device=ids.device)
        centroids = self.books.num_embeddings // codes.shape[-1]
        rare = self.books.rows(codes + parts * centroids).flatten(-2)[..., : self.embedding_dim]
        return torch.where(frequent.unsqueeze(-1), common, rare)


class PackedRoundedLinear(nn.Module):
    """A linear layer whose weight a `nn.RowRounding` rounded.

    Args:
        table: the rows of the weight, one for each output.
        bias: (outputs,), or None.
    """

    bias: Tensor | None

    def __init__(self, table: PackedRoundedEmbedding, bias: Tensor | None) -> None:
        super().__init__()
        self.table = table
        self.register_buffer("bias", bias)

    @property
    def weight(self) -> Tensor:
        """The decoded weight, (outputs, inputs)."""
        return self.table.weight

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Map `x` of shape (..., inputs) to (..., outputs)."""
        table = self.table
        if table.path != REFERENCE:
            y = ops.linear(x.float(), table.packed, table.scale, self.bias, table.bits, table.path)
            return y.to(x.dtype)
        return F.linear(x, self.weight, self.bias)


class PackedDecoder(TiedDecoder):
    """A `TiedDecoder` that never holds more than a few thousand decoded rows."""

    def forward(self, hidden: Tensor) -> Tensor:
        table = self._embedding[0]
        assert isinstance(table, PackedEmbedding)
        ids = torch.arange(table.num_embeddings, device=hidden.device)
        chunks = [F.linear(hidden, table.rows(some)) for some in ids.split(_CHUNK_ROWS)]
        logits = torch.cat(chunks, -1)
        return logits if self.bias is None else logits + self.bias
