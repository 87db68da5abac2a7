"""Packed forms of the binary modules: the same arithmetic, from bits. The kernels' reference."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bipft_compress.nn import BinaryAttention, BinaryLinear
from bipft_compress.storage.bits import unpack_signs


def _take_over(new: nn.Module, old: nn.Module) -> None:
    """Give `new`, of a subclass, all that `old` has."""
    nn.Module.__init__(new)
    new.__dict__ |= {key: value for key, value in old.__dict__.items() if not key.startswith("_")}
    new._parameters.update(old._parameters)
    new._modules.update(old._modules)


class PackedLinear(BinaryLinear):
    """A `BinaryLinear` whose weight is bits; for inference.

    The signs are unpacked while it runs and dropped after it; in memory stay the bits.

    Args:
        linear: whose parameters it takes over, all but the latent weight.
        bits: packed signs of the weight, (out, ceil(in / 8)), uint8: see `storage.bits`. With
            several bits a weight, planes of them, the least significant first,
            (`weight_bits`, out, ceil(in / 8)).
    """

    def __init__(self, linear: BinaryLinear, bits: Tensor) -> None:
        _take_over(self, linear)
        del self.weight
        self.register_buffer("weight", bits)

    def signs(self) -> Tensor:
        return unpack_signs(self.weight, self.in_features).to(self.shift.dtype)

    def codes(self) -> Tensor:
        signs = self.signs()
        if self.weight_bits == 1:
            return signs
        steps = 2.0 ** torch.arange(self.weight_bits, device=signs.device)
        return torch.einsum("p,poi->oi", steps.to(signs.dtype), signs)


class PackedAttention(BinaryAttention):
    """A `BinaryAttention` whose tables of positions are bits; for inference.

    Args:
        attention: whose parameters it takes over, all but the tables.
        tables: ``position_key`` and ``position_query``, those that it has, as packed signs,
            (heads, rows, ceil(head_dim / 8)), uint8.
    """

    def __init__(self, attention: BinaryAttention, tables: dict[str, Tensor]) -> None:
        _take_over(self, attention)
        for name, bits in tables.items():
            delattr(self, name)
            self.register_buffer(name, bits)

    def position_signs(self, name: str) -> Tensor:
        signs = unpack_signs(getattr(self, name), self.spec.head_dim)
        return signs.to(self.query_shift.dtype)
