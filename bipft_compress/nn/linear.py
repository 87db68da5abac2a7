"""The binary linear layer: 1-bit weights, k-bit activations, and a low-rank estimator."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bipft_compress.nn.estimator import LowRankEstimator
from bipft_compress.nn.quantizers import (
    quantize_activation,
    scaled_gradient,
    signed_codes,
    weight_sign,
)


class BinaryLinear(nn.Module):
    """A linear layer whose product runs on bits.

    ::

        s   = x - shift
        b   = k-bit code of s             (sign(s) at one bit)
        w   = sign(W)
        acc = sum_k b_k w_k               an exact integer
        y   = acc * activation_scale * weight_scale + bias + U (V x)

    During training `W` is a latent weight in floating point; only its sign is ever used.

    Args:
        in_features: width of the input.
        out_features: width of the output.
        bits: bits of an activation: 1, 2, 4 or 8.
        weight_bits: bits of a weight: 1 to 4.
        rank: rank of the residual estimator; 0 for none.
        clip: see `quantize_activation`.
        elastic: learn the activation scale through the codes too; see `quantize_activation` and
            `scaled_gradient`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bits: int = 1,
        weight_bits: int = 1,
        rank: int = 0,
        clip: float = 1.0,
        elastic: bool = False,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.bits = bits
        self.weight_bits = weight_bits
        self.clip = clip
        self.elastic = elastic
        self.weight = nn.Parameter(torch.zeros(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.shift = nn.Parameter(torch.zeros(in_features))
        self.activation_scale = nn.Parameter(torch.ones(()))
        self.weight_scale = nn.Parameter(torch.ones(out_features))
        self.estimator = LowRankEstimator(in_features, out_features, rank) if rank else None

    @property
    def rank(self) -> int:
        return self.estimator.rank if self.estimator is not None else 0

    def signs(self) -> Tensor:
        """Signs of the weights, (out, in)."""
        return weight_sign(self.weight)

    def codes(self) -> Tensor:
        """Codes of the weights, odd integers, (out, in)."""
        return self.signs()

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` of shape (..., in) to (..., out)."""
        step: Tensor = self.activation_scale
        if self.elastic:
            step = scaled_gradient(step, x.numel(), self.bits)
        codes = quantize_activation(x - self.shift, step, self.bits, self.clip, self.elastic)
        scale = step * self.weight_scale
        if self.training:
            # The scales go into the small weight matrix, not onto the large output: a pass less.
            y = F.linear(codes, self.codes() * scale.unsqueeze(1), self.bias)
        else:
            # The integers first, as the packed runtime has them: a sum that is 0 stays 0, and
            # what lies exactly on the next threshold falls on the same side everywhere.
            y = F.linear(codes, self.codes()) * scale + self.bias
        return y if self.estimator is None else y + self.estimator(x)

    @torch.no_grad()
    def accumulate(self, x: Tensor) -> Tensor:
        """The integers of the binary product, (..., out), exact in fp32 for any width below 2^16.

        This is what a packed kernel must reproduce bit for bit.
        """
        codes = signed_codes(x - self.shift, self.activation_scale, self.bits)
        return F.linear(codes, self.codes())

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bits={self.bits}, rank={self.rank}"
        )
