"""The binary linear layer: weights and activations of few bits, and a low-rank estimator."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bipft_compress.nn.estimator import LowRankEstimator
from bipft_compress.nn.quantizers import (
    quantize_activation,
    scaled_gradient,
    token_magnitude,
    weight_codes,
)
from bipft_compress.spec import DynamicScale


class BinaryLinear(nn.Linear):
    """A linear layer whose product runs on bits.

    A `torch.nn.Linear` to those who look for linear layers by class, as PEFT does.

    ::

        s   = x - shift
        a   = activation_scale            times the token's own magnitude, with `dynamic_scale`
        b   = n-bit code of s / a         (sign(s) at one bit)
        w   = m-bit code of W             (sign(W) at one bit)
        acc = sum_k b_k w_k               an exact integer
        y   = acc * a * weight_scale + bias + U (V x)

    Both codes are odd integers, sums of n and m planes of signs: `signed_codes`. During training
    `W` is a latent weight in floating point; only its code is ever used.

    Args:
        in_features: width of the input.
        out_features: width of the output.
        weight_bits: bits of a weight: 1 to 4.
        bits: bits of an activation: 1, 2, 4 or 8.
        rank: rank of the residual estimator; 0 for none.
        clip: see `quantize_activation`.
        elastic: learn the activation scale through the codes too; see `quantize_activation` and
            `scaled_gradient`.
        dynamic_scale: see `token_magnitude`.
    """

    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        weight_bits: int = 1,
        bits: int = 1,
        rank: int = 0,
        clip: float = 1.0,
        elastic: bool = False,
        dynamic_scale: DynamicScale = "none",
    ) -> None:
        nn.Module.__init__(self)
        self.in_features = in_features
        self.out_features = out_features
        self.weight_bits = weight_bits
        self.bits = bits
        self.clip = clip
        self.elastic = elastic
        self.dynamic_scale: DynamicScale = dynamic_scale
        self.weight = nn.Parameter(torch.zeros(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.shift = nn.Parameter(torch.zeros(in_features))
        self.activation_scale = nn.Parameter(torch.ones(()))
        self.weight_scale = nn.Parameter(torch.ones(out_features))
        self.estimator = LowRankEstimator(in_features, out_features, rank) if rank else None

    @property
    def rank(self) -> int:
        return self.estimator.rank if self.estimator is not None else 0

    def codes(self) -> Tensor:
        """Codes of the weights, odd integers, (out, in)."""
        return weight_codes(self.weight, self.weight_bits)

    def input_codes(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Codes of an input (..., in), and the magnitudes of its tokens (..., 1) or None."""
        step: Tensor = self.activation_scale
        if self.elastic:
            step = scaled_gradient(step, x.numel(), self.bits)
        s = x - self.shift
        magnitude = token_magnitude(s, self.dynamic_scale)
        scale = step if magnitude is None else step * magnitude
        return quantize_activation(s, scale, self.bits, self.clip, self.elastic), magnitude

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` of shape (..., in) to (..., out)."""
        codes, magnitude = self.input_codes(x)
        scale = self.activation_scale * self.weight_scale
        if self.training and magnitude is None:
            # The scales go into the small weight matrix, not onto the large output: a pass less.
            y = F.linear(codes, self.codes() * scale.unsqueeze(1), self.bias)
        else:
            # The integers first, as the packed runtime has them: a sum that is 0 stays 0, and
            # what lies exactly on the next threshold falls on the same side everywhere.
            y = F.linear(codes, self.codes()) * scale
            y = (y if magnitude is None else y * magnitude) + self.bias
        return y if self.estimator is None else y + self.estimator(x)

    @torch.no_grad()
    def accumulate(self, x: Tensor) -> Tensor:
        """The integers of the binary product, (..., out), exact in fp32 below 2^24.

        This is what a packed kernel must reproduce bit for bit.
        """
        return F.linear(self.input_codes(x)[0], self.codes())

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"weight_bits={self.weight_bits}, bits={self.bits}, rank={self.rank}"
        )
