"""Row-wise rounding to a few bits: how matrices outside the 1-bit arithmetic are stored."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bipft_compress.nn.quantizers import straight_through_round


def best_row_scales(weight: Tensor, bits: int, candidates: int = 16) -> Tensor:
    """The step of each row that rounds it with the least squared error.

    Args:
        weight: (rows, columns).
        bits: of a stored number, at least 2.
        candidates: how many clipping points to try, from 0.5 to 1 times the row's maximum.

    Returns:
        Positive steps, (rows, 1).
    """
    largest = 2 ** (bits - 1) - 1
    maximum = weight.abs().amax(1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
    best: Tensor = maximum / largest
    error = torch.full_like(best, float("inf"))
    for fraction in torch.linspace(0.5, 1.0, candidates).tolist():
        scale = maximum * fraction / largest
        rounded = (weight / scale).round().clamp(-largest, largest) * scale
        candidate = (rounded - weight).square().sum(1, keepdim=True)
        best = torch.where(candidate < error, scale, best)
        error = torch.minimum(candidate, error)
    return best


def row_codes(weight: Tensor, scale: Tensor, bits: int) -> Tensor:
    """The integers in ``[-(2^(bits-1) - 1), 2^(bits-1) - 1]`` that rows round to.

    Args:
        weight: (rows, columns).
        scale: positive step of each row, (rows, 1).
        bits: of a stored number, at least 2.
    """
    largest = 2 ** (bits - 1) - 1
    return straight_through_round((weight / scale).clamp(-largest, largest))


class RowRounding(nn.Module):
    """``weight -> scale * round(weight / scale)`` per row, symmetric, straight-through gradient.

    A parametrization (``torch.nn.utils.parametrize``): the latent weight stays trainable, every
    reader of ``module.weight`` sees the numbers that the packed artefact stores.

    Args:
        rows: how many.
        bits: of a stored number: 4 or 8.
    """

    def __init__(self, rows: int, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.scale = nn.Parameter(torch.ones(rows, 1))

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What ``module.weight = weight`` keeps: the weight, and the scales that suit it."""
        self.scale.data = best_row_scales(weight.detach(), self.bits)
        return weight

    def codes(self, weight: Tensor) -> Tensor:
        """See `row_codes`; same shape as `weight`."""
        return row_codes(weight, self.scale, self.bits)

    def forward(self, weight: Tensor) -> Tensor:
        return self.codes(weight) * self.scale


def round_rows(module: nn.Module, bits: int) -> None:
    """Store the weight of `module` (an embedding or linear layer) in `bits` bits, in place."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    rounding = RowRounding(len(weight), bits).to(weight)
    parametrize.register_parametrization(module, "weight", rounding)  # finds the scales
    # torch makes a class for it, and refuses to pickle what has one.
    type(module).__reduce_ex__ = _reduce  # type: ignore[method-assign, assignment]


def _reduce(module: nn.Module, protocol: int) -> tuple[Any, ...]:
    rounding: Any = module.parametrizations["weight"]  # type: ignore[index]
    return _restore, (type(module).__mro__[1], rounding[0].bits), module.__dict__


def _restore(original: type[nn.Module], bits: int) -> nn.Module:
    """A rounded module that its state is still to be given."""
    module = original.__new__(original)
    nn.Module.__init__(module)
    module.weight = nn.Parameter(torch.zeros(1, 1))
    round_rows(module, bits)
    return module


@torch.no_grad()
def set_values(module: nn.Module, name: str, values: Tensor) -> None:
    """Give a parameter of `module` its values; one that is rounded gets scales that suit them."""
    parameter = getattr(module, name)
    if parametrize.is_parametrized(module, name):
        setattr(module, name, values.to(parameter))
    else:
        parameter.copy_(values)
