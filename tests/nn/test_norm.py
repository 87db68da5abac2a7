"""Norms are made as their description says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bipft_compress.nn import Affine
from bipft_compress.nn.norm import make_norm
from bipft_compress.spec import NormSpec


def test_affine_by_hand():
    norm = Affine(3)
    x = torch.tensor([[1.0, -2.0, 0.5]])
    assert torch.equal(norm(x), x)  # it starts as the identity
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([2.0, 3.0, 4.0]))
        norm.bias.copy_(torch.tensor([1.0, 0.0, -1.0]))
    assert norm(x).tolist() == [[3.0, -6.0, 1.0]]


@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm(bias):
    norm = make_norm(NormSpec(5, 0.25, "layer", bias))
    assert isinstance(norm, nn.LayerNorm)
    assert (norm.bias is not None) == bias
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    centred = x - x.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 0.25).sqrt()
    torch.testing.assert_close(norm(x), expected)


def test_rms_norm():
    norm = make_norm(NormSpec(5, 0.25, "rms", bias=False))
    assert dict(norm.named_parameters()).keys() == {"weight"}
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    expected = x / (x.square().mean(-1, keepdim=True) + 0.25).sqrt()
    torch.testing.assert_close(norm(x), expected)


def test_affine():
    assert isinstance(make_norm(NormSpec(5, 0.0, "affine")), Affine)
