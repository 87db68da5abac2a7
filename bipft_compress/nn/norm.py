"""The normalisations of encoder blocks, made from their description."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bipft_compress.spec import NormSpec


class Affine(nn.Module):
    """A gain and a bias without any normalisation: MobileBERT's NoNorm (Sun et al. 2020).

    Args:
        width: of the last dimension.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift `x` (..., width)."""
        return x * self.weight + self.bias


def make_norm(spec: NormSpec) -> nn.Module:
    """A new norm by its description."""
    match spec.kind:
        case "layer":
            return nn.LayerNorm(spec.width, spec.eps, bias=spec.bias)
        case "rms":
            return nn.RMSNorm(spec.width, spec.eps)
        case "affine":
            return Affine(spec.width)
