"""Quantizers: what happens to a number before it enters a binary product, and its gradient.

Every code is a sum of bit planes of +1 and -1 (or of 1 and 0 for probabilities), so that one
XOR+popcount kernel serves them all. No code is ever zero: a zero would not be one bit.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from bipft_compress.spec import DynamicScale

LATENT_STEP = 0.05
"""What a code of 1 is in a latent weight: the size of BERT's own weights, so that one learning rate
serves latent weights and all else."""


def sign(x: Tensor) -> Tensor:
    """+1 where ``x >= 0`` (also at -0.0), else -1; same shape and dtype as `x`. Never 0."""
    # Several times faster than torch.where on a CPU; adding 0.0 turns -0.0 into 0.0.
    return torch.copysign(torch.ones((), dtype=x.dtype, device=x.device), x + 0.0)


def signed_codes(s: Tensor, scale: Tensor | float, bits: int) -> Tensor:
    """The nearest k-bit code of ``s / scale``: an odd integer in ``[-(2^k - 1), 2^k - 1]``.

    Odd integers are exactly the sums ``sum_i 2^i b_i`` over k bit planes ``b_i`` of +1 and -1.
    One bit is `sign`, whatever the scale.
    """
    if bits == 1:
        return sign(s)
    half = 2 ** (bits - 1)
    # In place: large tensors are bound by memory.
    return (s / (2 * scale)).floor_().clamp_(-half, half - 1).mul_(2).add_(1)


SMALLEST_STEP = 1e-6
"""The least that a code of 1 may stand for: it is divided by."""

_COARSE, _FINE = 1.25, 1.04
"""Ratio of two neighbours among the scales that are tried first, and then around the best."""

_LEAST_LARGEST = 0.5
"""The least value of the largest code that is tried, in root mean squares."""

_SAMPLE = 1 << 17
"""Numbers of a row that scales are tried on; longer ones are sampled. So many of several rows are
looked at together, for they stay in a core's cache from one scale to the next."""


def best_scale(x: Tensor, bits: int) -> Tensor:
    """The scale that rounds each row of `x` to k-bit codes with the least squared error.

    At one bit this is the mean magnitude, in closed form. With more, what is far from normal (the
    output of a GELU, a few large channels) needs scales far from those of a normal distribution,
    so they are tried, from clipping nothing to clipping almost everything.

    Args:
        x: centred numbers, (rows, count).
        bits: of a code: 1 to 8.

    Returns:
        Positive, (rows, 1).
    """
    if bits == 1:
        return x.abs().mean(1, keepdim=True).clamp_min(SMALLEST_STEP)
    return torch.cat([_best_scale(rows, bits) for rows in x.split(max(1, _SAMPLE // x.shape[1]))])


def _best_scale(x: Tensor, bits: int) -> Tensor:
    largest = x.abs().amax(1, keepdim=True).clamp_min(SMALLEST_STEP)
    x = x[:, :: -(-x.shape[1] // _SAMPLE)]
    least = (_LEAST_LARGEST * x.square().mean(1, keepdim=True).sqrt()).clamp_min(SMALLEST_STEP)
    best, error = largest, torch.full_like(largest, float("inf"))
    steps = math.ceil(math.log(float((largest / least).max()), _COARSE)) + 1
    around = math.ceil(math.log(_COARSE, _FINE))
    for ratio, powers in ((_COARSE, range(steps)), (_FINE, range(-around, around + 1))):
        start = best
        for power in powers:
            # What clips nothing comes first, and numbers that are codes are found exactly.
            value = torch.minimum(start / ratio**power, largest)
            scale = value / (2**bits - 1)
            left = (scale * signed_codes(x, scale, bits) - x).square().sum(1, keepdim=True)
            best, error = torch.where(left < error, value, best), torch.minimum(left, error)
    step: Tensor = best / (2**bits - 1)
    return step.clamp_min(SMALLEST_STEP)


def nearest_codes(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """The codes of each row that leave the least squared error of its weights.

    Args:
        weight: (rows, columns).
        bits: of a weight.

    Returns:
        Odd integers, (rows, columns), and what a code of 1 stands for in each row, (rows, 1).
    """
    step = best_scale(weight, bits)
    return signed_codes(weight, step, bits), step


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


def token_magnitude(s: Tensor, kind: DynamicScale) -> Tensor | None:
    """The magnitude of each token, without a gradient.

    A few tokens of BERT, as ``[SEP]``, have activations dozens of times as large as all others
    (Bondarenko et al. 2021): one scale for all tokens either clips these or wastes most codes.

    Args:
        s: activations after the shift, (..., channels).
        kind: see `DynamicScale`.

    Returns:
        Positive, (..., 1), or None for ``none``.
    """
    if kind == "none":
        return None
    s = s.detach()
    if kind == "rms":
        magnitude = s.square().mean(-1, keepdim=True).sqrt()
    else:
        magnitude = s.abs().amax(-1, keepdim=True)
    return magnitude.clamp_min(SMALLEST_STEP)


def activation_scale(s: Tensor, bits: int, kind: DynamicScale) -> Tensor:
    """What a code of 1 stands for, relative to the magnitude of a token where there is one.

    Args:
        s: activations after the shift, (tokens, channels).
        bits: of a code.
        kind: see `DynamicScale`.

    Returns:
        The scale of `best_scale`, ().
    """
    magnitude = token_magnitude(s, kind)
    relative = s if magnitude is None else s / magnitude
    return best_scale(relative.flatten().unsqueeze(0), bits).squeeze()


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


class _WeightCodes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, bits: int) -> Tensor:
        return signed_codes(weight, LATENT_STEP, bits)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def weight_codes(weight: Tensor, bits: int) -> Tensor:
    """Codes of latent weights: `signed_codes` of steps of `LATENT_STEP`, the identity as gradient.

    Args:
        weight: latent weights, any shape.
        bits: of a weight: 1 to 4.
    """
    codes: Tensor = _WeightCodes.apply(weight, bits)  # type: ignore[no-untyped-call]
    return codes


def weight_sign(weight: Tensor) -> Tensor:
    """`weight_codes` of one bit: the sign."""
    return weight_codes(weight, 1)


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
