"""Quantizers: what happens to a number before it enters a binary product, and its gradient.

Every code is a sum of bit planes of +1 and -1 (or of 1 and 0 for probabilities), so that one
XOR+popcount kernel serves them all. No code is ever zero: a zero would not be one bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def sign(x: Tensor) -> Tensor:
    """+1 where ``x >= 0`` (also at -0.0), else -1; same shape and dtype as `x`. Never 0."""
    # Several times faster than torch.where on a CPU; adding 0.0 turns -0.0 into 0.0.
    return torch.copysign(torch.ones((), dtype=x.dtype, device=x.device), x + 0.0)


def signed_codes(s: Tensor, scale: Tensor, bits: int) -> Tensor:
    """The nearest k-bit code of ``s / scale``: an odd integer in ``[-(2^k - 1), 2^k - 1]``.

    Odd integers are exactly the sums ``sum_i 2^i b_i`` over k bit planes ``b_i`` of +1 and -1.
    One bit is `sign`, whatever the scale.
    """
    if bits == 1:
        return sign(s)
    half = 2 ** (bits - 1)
    return 2 * torch.floor(s / (2 * scale)).clamp(-half, half - 1) + 1


class _ActivationQuantizer(torch.autograd.Function):
    """`signed_codes` with a clipped straight-through gradient."""

    @staticmethod
    def forward(
        ctx: Any, s: Tensor, scale: Tensor, bits: int, clip: float, elastic: bool
    ) -> Tensor:
        limit = clip * (2**bits - 1) * scale
        inside = s.abs() <= limit
        ctx.save_for_backward(inside, scale, s if elastic else None)
        return signed_codes(s, scale, bits)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inside, scale, s = ctx.saved_tensors
        grad_s = (grad * inside).div_(scale)
        grad_scale = None
        if s is not None:
            grad_scale = -(grad_s * s).div(scale).sum_to_size(scale.shape)
        return grad_s, grad_scale, None, None, None


def quantize_activation(
    s: Tensor, scale: Tensor, bits: int = 1, clip: float = 1.0, elastic: bool = False
) -> Tensor:
    """Codes of activations, with a straight-through gradient.

    The represented value is ``scale * code``. Its gradient with respect to `s` is one where
    ``|s| <= clip * (2^k - 1) * scale`` and zero outside (Bengio et al. 2013; the clip: Courbariaux
    et al. 2016). With `elastic`, `scale` also receives the gradient of learned step size (Esser et
    al. 2020), as BiT's elastic binarization does (Liu et al. 2022, eq. 6).

    Args:
        s: activations after the shift, any shape.
        scale: positive; broadcasts against `s`.
        bits: 1, 2, 4 or 8.
        clip: where the gradient stops, as a multiple of the largest code's value.
        elastic: whether the scale gets a gradient through the code itself.

    Returns:
        Odd integers in ``[-(2^k - 1), 2^k - 1]``, in the dtype of `s`.
    """
    if not torch.is_grad_enabled():
        return signed_codes(s, scale, bits)
    codes: Tensor = _ActivationQuantizer.apply(s, scale, bits, clip, elastic)  # type: ignore[no-untyped-call]
    return codes


def scaled_gradient(scale: Tensor, count: int, bits: int) -> Tensor:
    """`scale` itself, with a gradient of ``1 / sqrt(count * (2^k - 1))`` times its own.

    A scale gathers the gradients of all the numbers it stands for; this brings it back to the size
    of theirs (learned step size, Esser et al. 2020, section 2.2; BiT, Liu et al. 2022).

    Args:
        scale: of codes, any shape.
        count: numbers that one element of `scale` stands for.
        bits: of a code.
    """
    if not torch.is_grad_enabled():
        return scale  # the sum below is rounded
    factor = (count * (2**bits - 1)) ** -0.5
    scaled: Tensor = scale * factor + (scale * (1 - factor)).detach()
    return scaled


class _WeightSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return sign(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def weight_sign(weight: Tensor) -> Tensor:
    """`sign` of latent weights with the identity as gradient."""
    signs: Tensor = _WeightSign.apply(weight)  # type: ignore[no-untyped-call]
    return signs


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        # Half upwards, so that p >= scale / 2 is the first step of the two-set code.
        return torch.floor(x + 0.5)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def straight_through_round(x: Tensor) -> Tensor:
    """Round half upwards; the gradient is the identity."""
    rounded: Tensor = _Round.apply(x)  # type: ignore[no-untyped-call]
    return rounded


def quantize_boolean(scores: Tensor) -> Tensor:
    """Bi-Attention's ``[score >= 0]``, without softmax (BiBERT, Qin et al. 2022, eq. 9).

    Returns:
        1 or 0 in the shape of `scores`; the gradient is straight-through where ``|score| <= 1``.
    """
    one = torch.ones((), dtype=scores.dtype, device=scores.device)
    return (quantize_activation(scores, one) + 1) / 2


def quantize_probability(
    p: Tensor, scale: Tensor, bits: int = 1, shift: Tensor | None = None
) -> Tensor:
    """Codes of attention probabilities: the {0, scale} set and its k-bit extension.

    ``code = round(clip((p - shift) / scale, 0, 2^k - 1))``; at one bit this is
    ``[p >= shift + scale / 2]`` (BiT, Liu et al. 2022, section 3.2 and eq. 6, where `shift` is the
    learned threshold). `p`, `scale` and `shift` receive straight-through gradients.

    Args:
        p: probabilities in [0, 1], any shape.
        scale: positive; broadcasts against `p`.
        bits: 1, 2, 4 or 8.
        shift: broadcasts against `p`; None for none.

    Returns:
        Integers in ``[0, 2^k - 1]``; the represented value is ``scale * code``.
    """
    above = p if shift is None else p - shift
    return straight_through_round((above / scale).clamp(0, 2**bits - 1))
