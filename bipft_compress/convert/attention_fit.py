"""Closed-form start of binary attention: scales, thresholds and estimators per head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bipft_compress.convert.regression import reduced_rank_regression
from bipft_compress.nn import BinaryAttention

Sample = tuple[Tensor, Tensor]
"""The student's and the teacher's q, k and v, each (3, batch, heads, length, head_dim)."""

# Step sizes of the best uniform quantizer of a standard normal (Max 1960), halved: the value of
# code 1 at k bits.
NORMAL_HALF_STEP = {1: 0.7979, 2: 0.4978, 4: 0.1676, 8: 0.0154}

_PROBABILITY_SCALES = torch.logspace(-2, 0, 17).tolist()


@torch.no_grad()
def fit_attention(attention: BinaryAttention, samples: Sequence[Sample], *, damping: float) -> None:
    """Fit `attention` to the teacher's scores, probabilities and context, in this order.

    Args:
        attention: the module to fill, in place.
        samples: batches of equal length each; lengths may differ between them.
        damping: ridge of the estimators, relative to the mean variance.
    """
    _fit_quantizers(attention, samples)
    wanted = [t[0] @ t[1].transpose(-1, -2) * attention.head_dim**-0.5 for _, t in samples]
    _fit_scores(attention, samples, wanted, damping)
    probabilities = [scores.softmax(-1) for scores in wanted]
    _fit_probabilities(attention, samples, probabilities)
    _fit_context(attention, samples, probabilities, damping)


@torch.no_grad()
def start_attention_by_magnitude(
    attention: BinaryAttention, student: Tensor, *, at_random: bool
) -> None:
    """The papers' start: scales are mean magnitudes in a first batch, nothing is shifted.

    Args:
        attention: the module to fill, in place.
        student: its q, k and v, (3, batch, heads, length, head_dim).
        at_random: estimators start at random, otherwise at zero.
    """
    for x, (name, bits) in zip(student, _quantizers(attention), strict=True):
        getattr(attention, f"{name}_shift").zero_()
        getattr(attention, f"{name}_clip").copy_(_spread(_by_head(x), bits))
    scale = attention.query_clip * attention.key_clip * attention.head_dim**-0.5
    attention.score_scale.copy_(scale)
    attention.value_scale.copy_(attention.value_clip.expand_as(attention.value_scale))
    attention.context_bias.zero_()
    # BiT's first batch: twice the mean over the root of the largest code; the mean of
    # probabilities is one over the length. Bi-Attention has no softmax and turns on half of a row:
    # the same value makes a context the mean of what is attended to. Their sum would outweigh the
    # residual stream in every layer.
    largest = 2**attention.bits - 1
    attention.probability_scale.fill_(2 / student.shape[-2] / largest**0.5)
    for headwise in (attention.score_estimator, attention.context_estimator):
        if headwise is not None:
            headwise.start(at_random=at_random)


def _quantizers(attention: BinaryAttention) -> tuple[tuple[str, int], ...]:
    """Names and bits of what is quantized, in the order of a `Sample`."""
    key_value_bits = attention.key_value_bits
    return ("query", attention.bits), ("key", key_value_bits), ("value", key_value_bits)


def _spread(x: Tensor, bits: int) -> Tensor:
    """What a code of 1 stands for, of centred numbers (heads, count, dim): (heads, 1, 1)."""
    if bits == 1:
        spread = x.abs().mean((1, 2), keepdim=True)
    else:
        spread = x.square().mean((1, 2), keepdim=True).sqrt() * NORMAL_HALF_STEP[bits]
    return spread.clamp_min(1e-6)


def _by_head(x: Tensor) -> Tensor:
    """(batch, heads, length, dim) to (heads, batch * length, dim)."""
    return x.transpose(0, 1).flatten(1, 2)


def _fit_quantizers(attention: BinaryAttention, samples: Sequence[Sample]) -> None:
    for position, (name, bits) in enumerate(_quantizers(attention)):
        x = torch.cat([_by_head(student[position]) for student, _ in samples], 1)
        # Softmax ignores what all keys share, so keys lose their mean; queries keep theirs, which
        # says which keys are wanted by everyone.
        shift = x.mean(1, keepdim=True) if name != "query" else torch.zeros_like(x[:, :1])
        getattr(attention, f"{name}_shift").copy_(shift)
        getattr(attention, f"{name}_clip").copy_(_spread(x - shift, bits))


def _centre(scores: Tensor) -> Tensor:
    """Remove from every row what softmax ignores."""
    return scores - scores.mean(-1, keepdim=True)


def _fit_scores(
    attention: BinaryAttention,
    samples: Sequence[Sample],
    wanted: Sequence[Tensor],
    damping: float,
) -> None:
    over, under = torch.zeros(attention.heads), torch.full((attention.heads,), 1e-6)
    integers = []
    for (student, _), scores in zip(samples, wanted, strict=True):
        integers.append(_centre(attention.accumulate_scores(student[0], student[1])))
        over += (_centre(scores) * integers[-1]).sum((0, 2, 3))
        under += integers[-1].square().sum((0, 2, 3))
    attention.score_scale.copy_((over / under).view(-1, 1, 1))
    estimator = attention.score_estimator
    if estimator is None:
        return
    # min |E - Q M K^T|: whiten queries and keys, then the best rank-r core is an SVD.
    shape = attention.heads, attention.head_dim, attention.head_dim
    qq, kk, cross = (torch.zeros(shape, dtype=torch.float64) for _ in range(3))
    for (student, _), scores, acc in zip(samples, wanted, integers, strict=True):
        q, k = student[0].double(), student[1].double()
        k = k - k.mean(2, keepdim=True)
        residual = (_centre(scores) - attention.score_scale * acc).double()
        qq += (q.transpose(-1, -2) @ q).sum(0)
        kk += (k.transpose(-1, -2) @ k).sum(0)
        # Each sequence has (queries * keys) scores: weigh its sums as the two Grams together do.
        cross += (q.transpose(-1, -2) @ residual @ k).sum(0)
    sequences = sum(student.shape[1] for student, _ in samples)
    lq, lk = _root(qq / sequences, damping), _root(kk / sequences, damping)
    core = torch.linalg.solve_triangular(lq, cross / sequences, upper=False)
    core = torch.linalg.solve_triangular(lk, core.mT, upper=False).mT
    left, values, right = torch.linalg.svd(core)
    r = estimator.rank
    root = values[:, None, :r].sqrt()
    estimator.left.copy_(torch.linalg.solve_triangular(lq.mT, left[..., :r] * root, upper=True))
    estimator.right.copy_(torch.linalg.solve_triangular(lk.mT, right[:, :r].mT * root, upper=True))


def _root(covariance: Tensor, damping: float) -> Tensor:
    ridge = damping * covariance.diagonal(dim1=-2, dim2=-1).mean(-1) + 1e-12
    identity = torch.eye(covariance.shape[-1], dtype=covariance.dtype)
    lower: Tensor = torch.linalg.cholesky(covariance + ridge[:, None, None] * identity)
    return lower


def _fit_probabilities(
    attention: BinaryAttention, samples: Sequence[Sample], wanted: Sequence[Tensor]
) -> None:
    if attention.boolean:
        attention.probability_scale.fill_(1.0)
        return
    largest = 2**attention.bits - 1
    errors = torch.zeros(len(_PROBABILITY_SCALES), attention.heads)
    for (student, _), target in zip(samples, wanted, strict=True):
        p = attention.scores(student[0], student[1]).softmax(-1)
        for row, value in enumerate(_PROBABILITY_SCALES):
            scale = value / largest
            codes = p.div(scale).add_(0.5).floor_().clamp_max_(largest).mul_(scale)
            errors[row] += codes.sub_(target).square_().sum((0, 2, 3))
    best = torch.tensor(_PROBABILITY_SCALES)[errors.argmin(0)] / largest
    attention.probability_scale.copy_(best.view(-1, 1, 1))


def _fit_context(
    attention: BinaryAttention,
    samples: Sequence[Sample],
    wanted: Sequence[Tensor],
    damping: float,
) -> None:
    attention.value_scale.fill_(1.0)
    attention.context_bias.zero_()
    estimator = attention.context_estimator
    if estimator is not None:
        estimator.left.zero_()
    codes, mixed, targets = [], [], []
    for (student, teacher), p in zip(samples, wanted, strict=True):
        pb = attention.probability_codes(attention.scores(student[0], student[1]), None)
        codes.append(_by_head(attention.context(pb, student[2])))
        mixed.append(_by_head((pb * attention.probability_step) @ student[2]))
        targets.append(_by_head(p @ teacher[2]))
    b, x, y = torch.cat(codes, 1), torch.cat(mixed, 1), torch.cat(targets, 1)
    mean_b, mean_x, mean_y = (z.mean(1, keepdim=True) for z in (b, x, y))
    b, x, y = b - mean_b, x - mean_x, y - mean_y
    # Per channel: least squares with an intercept.
    scale = (b * y).sum(1, keepdim=True) / b.square().sum(1, keepdim=True).clamp_min(1e-6)
    bias = mean_y - scale * mean_b
    attention.value_scale.copy_(scale)
    if estimator is not None:
        residual = y - b * scale
        for head in range(attention.heads):
            e, z = residual[head].double(), x[head].double()
            up, down = reduced_rank_regression(
                e.T @ z / len(z), z.T @ z / len(z), estimator.rank, damping
            )
            estimator.left[head], estimator.right[head] = down.T, up
            bias[head] -= (mean_x[head].double() @ down.T @ up.T).to(bias)
    attention.context_bias.copy_(bias)
