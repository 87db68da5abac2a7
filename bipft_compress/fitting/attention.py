"""Closed-form start of binary attention: scales, thresholds and estimators per head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bipft_compress.fitting.moments import exact
from bipft_compress.fitting.regression import reduced_rank_regression
from bipft_compress.nn import BinaryAttention, FullAttention
from bipft_compress.nn.attention import mask_scores, read_mask
from bipft_compress.nn.quantizers import best_scale

Heads = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values, each (batch, heads, length, head_dim)."""


@dataclass(frozen=True)
class AttentionSample:
    """What an attention is called with, for sequences of one length.

    Attributes:
        student: the student's queries, keys and values.
        teacher: the teacher's.
        mask: see `nn.attention.read_mask`.
        bias: added to the scores of both.
        hidden: what the student's queries were projected from, (batch, length, hidden).
    """

    student: Heads
    teacher: Heads
    mask: Tensor | None = None
    bias: Tensor | None = None
    hidden: Tensor | None = None

    @property
    def tokens(self) -> int:
        batch, _, length, _ = self.student[0].shape
        return batch * length

    def allowed(self, window: int | None) -> Tensor | None:
        """Where attention is allowed, (batch or 1, 1, queries or 1, keys); None for everywhere."""
        mask = read_mask(self.mask, self.student[0], window)
        return mask if mask is None or mask.dtype == torch.bool else mask >= 0


_TINY = 1e-9
"""Ridge of the scales' normal equations: two kinds of integers may say the same."""

_PROBABILITY_SCALES = torch.logspace(-2, 0, 17).tolist()


@torch.no_grad()
def fit_attention(
    attention: BinaryAttention,
    original: FullAttention,
    samples: Sequence[AttentionSample],
    *,
    damping: float,
) -> None:
    """Fit `attention` to the teacher's scores, probabilities and context, in this order.

    Args:
        attention: the module to fill, in place.
        original: the teacher's.
        samples: batches of equal length each; lengths may differ between them.
        damping: ridge of the estimators, relative to the mean variance.
    """
    _fit_quantizers(attention, samples)
    _start_positions(attention, original)
    _fit_scores(attention, original, samples, damping)
    targets = [original.probabilities(*s.teacher[:2], s.mask, s.bias) for s in samples]
    _fit_probabilities(attention, samples, targets)
    _fit_context(attention, samples, targets, damping)


@torch.no_grad()
def start_attention_by_magnitude(
    attention: BinaryAttention,
    original: FullAttention,
    sample: AttentionSample,
    *,
    at_random: bool,
) -> None:
    """The papers' start: scales are mean magnitudes in a first batch, nothing is shifted.

    Args:
        attention: the module to fill, in place.
        original: the teacher's.
        sample: a first batch.
        at_random: estimators start at random, otherwise at zero.
    """
    for x, (name, bits) in zip(sample.student, _quantizers(attention), strict=True):
        getattr(attention, f"{name}_shift").zero_()
        getattr(attention, f"{name}_clip").copy_(_scale_of_heads(_by_head(x), bits))
    groups = attention.spec.heads // attention.spec.key_value_heads
    key_clip, value_clip = (
        clip.repeat_interleave(groups, 0) for clip in (attention.key_clip, attention.value_clip)
    )
    scale = attention.spec.score_scale
    attention.score_scale.copy_(attention.query_clip * key_clip * scale)
    for name, content in (("position_key", attention.query_clip), ("position_query", key_clip)):
        table = getattr(original, name)
        if table is not None:
            getattr(attention, name).copy_(table)
            getattr(attention, f"{name}_scale").copy_(content * _scale_of_heads(table, 1) * scale)
    attention.value_scale.copy_(value_clip.expand_as(attention.value_scale))
    attention.context_bias.zero_()
    # BiT's first batch: twice the mean over the root of the largest code; the mean of
    # probabilities is one over the length. Bi-Attention has no softmax and turns on half of a row:
    # the same value makes a context the mean of what is attended to. Their sum would outweigh the
    # residual stream in every layer.
    largest = 2**attention.bits - 1
    attention.probability_scale.fill_(2 / sample.student[0].shape[-2] / largest**0.5)
    for headwise in (attention.score_estimator, attention.context_estimator):
        if headwise is not None:
            headwise.start(at_random=at_random)


def _quantizers(attention: BinaryAttention) -> tuple[tuple[str, int], ...]:
    """Names and bits of what is quantized, in the order of `Heads`."""
    key_value_bits = attention.key_value_bits
    return ("query", attention.bits), ("key", key_value_bits), ("value", key_value_bits)


def _scale_of_heads(x: Tensor, bits: int) -> Tensor:
    """What a code of 1 stands for, of centred numbers (heads, count, dim): (heads, 1, 1)."""
    return best_scale(x.flatten(1), bits).unsqueeze(-1)


def _by_head(x: Tensor) -> Tensor:
    """(batch, heads, length, dim) to (heads, batch * length, dim)."""
    return x.transpose(0, 1).flatten(1, 2)


def _fit_quantizers(attention: BinaryAttention, samples: Sequence[AttentionSample]) -> None:
    for position, (name, bits) in enumerate(_quantizers(attention)):
        x = torch.cat([_by_head(sample.student[position]) for sample in samples], 1)
        # Softmax ignores what all keys share, so keys lose their mean; queries keep theirs, which
        # says which keys are wanted by everyone.
        shift = x.mean(1, keepdim=True) if name != "query" else torch.zeros_like(x[:, :1])
        getattr(attention, f"{name}_shift").copy_(shift)
        getattr(attention, f"{name}_clip").copy_(_scale_of_heads(x - shift, bits))


def _start_positions(attention: BinaryAttention, original: FullAttention) -> None:
    """Tables of positions start as the teacher's; their signs train with the rest."""
    if attention.position_key is not None and original.position_key is not None:
        # Softmax ignores what all keys share.
        table = original.position_key
        attention.position_key.copy_(table - table.mean(1, keepdim=True))
    if attention.position_query is not None and original.position_query is not None:
        attention.position_query.copy_(original.position_query)


def _centre(scores: Tensor, allowed: Tensor | None) -> Tensor:
    """Remove from every row what softmax ignores: its mean, and keys that are not attended to."""
    if allowed is None:
        return scores - scores.mean(-1, keepdim=True)
    allowed = allowed.to(scores.dtype)
    mean = (scores * allowed).sum(-1, keepdim=True) / allowed.sum(-1, keepdim=True).clamp_min(1)
    return (scores - mean) * allowed


def _fit_scores(
    attention: BinaryAttention,
    original: FullAttention,
    samples: Sequence[AttentionSample],
    damping: float,
) -> None:
    # One scale a head for each kind of integers: normal equations of their least squares.
    residuals, gram, moment = [], None, None
    names: list[str] = []
    for sample in samples:
        allowed = sample.allowed(attention.spec.window)
        terms = attention.accumulate_scores(*sample.student[:2])
        integers = torch.stack([_centre(term, allowed) for term in terms.values()])
        target = _centre(original.scores(*sample.teacher[:2]), allowed)
        names = list(terms)
        if attention.score_estimator is not None:
            residuals.append((integers, target))
        own_gram = exact(torch.einsum("ibhqk,jbhqk->hij", integers, integers))
        own_moment = exact(torch.einsum("ibhqk,bhqk->hi", integers, target))
        gram = own_gram if gram is None else gram + own_gram
        moment = own_moment if moment is None else moment + own_moment
    assert gram is not None
    assert moment is not None
    ridge = _TINY + _TINY * gram.diagonal(dim1=-2, dim2=-1).amax(-1)
    gram = gram + ridge[:, None, None] * torch.eye(len(names)).to(gram)
    scales = torch.linalg.solve(gram, moment)
    for name, scale in zip(names, scales.unbind(1), strict=True):
        getattr(attention, name).copy_(scale.view(-1, 1, 1))
    if attention.score_estimator is not None:
        for position, (integers, target) in enumerate(residuals):
            fitted = (integers * scales.T[:, None, :, None, None].to(integers)).sum(0)
            residuals[position] = integers, target - fitted
        _fit_score_estimator(attention, samples, [left for _, left in residuals], damping)


def _fit_score_estimator(
    attention: BinaryAttention,
    samples: Sequence[AttentionSample],
    residuals: Sequence[Tensor],
    damping: float,
) -> None:
    """min |E - Q M K^T|: whiten queries and keys, then the best rank-r core is an SVD."""
    estimator, spec = attention.score_estimator, attention.spec
    assert estimator is not None
    shape = spec.heads, spec.head_dim, spec.head_dim
    qq, kk, cross = (exact(residuals[0].new_zeros(shape)) for _ in range(3))
    for sample, residual in zip(samples, residuals, strict=True):
        q, k = (exact(x) for x in sample.student[:2])
        k = attention.for_every_head(k)
        k = k - k.mean(2, keepdim=True)
        qq += (q.transpose(-1, -2) @ q).sum(0)
        kk += (k.transpose(-1, -2) @ k).sum(0)
        # Each sequence has (queries * keys) scores: weigh its sums as the two Grams together do.
        cross += (q.transpose(-1, -2) @ exact(residual) @ k).sum(0)
    sequences = sum(len(sample.student[0]) for sample in samples)
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
    identity = torch.eye(covariance.shape[-1]).to(covariance)
    lower: Tensor = torch.linalg.cholesky(covariance + ridge[:, None, None] * identity)
    return lower


def _fit_probabilities(
    attention: BinaryAttention, samples: Sequence[AttentionSample], targets: Sequence[Tensor]
) -> None:
    if attention.boolean:
        attention.probability_scale.fill_(1.0)
        return
    largest = 2**attention.bits - 1
    errors = targets[0].new_zeros(len(_PROBABILITY_SCALES), attention.spec.heads)
    for sample, target in zip(samples, targets, strict=True):
        scores = attention.scores(*sample.student[:2], sample.bias, sample.hidden)
        p = mask_scores(scores, sample.allowed(attention.spec.window)).softmax(-1)
        for row, value in enumerate(_PROBABILITY_SCALES):
            scale = value / largest
            codes = p.div(scale).add_(0.5).floor_().clamp_max_(largest).mul_(scale)
            errors[row] += codes.sub_(target).square_().sum((0, 2, 3))
    best = torch.tensor(_PROBABILITY_SCALES, device=errors.device)[errors.argmin(0)] / largest
    attention.probability_scale.copy_(best.view(-1, 1, 1))


def _fit_context(
    attention: BinaryAttention,
    samples: Sequence[AttentionSample],
    targets: Sequence[Tensor],
    damping: float,
) -> None:
    attention.value_scale.fill_(1.0)
    attention.context_bias.zero_()
    estimator = attention.context_estimator
    if estimator is not None:
        estimator.left.zero_()
    codes, mixed, contexts = [], [], []
    for sample, p in zip(samples, targets, strict=True):
        query, key, value = sample.student
        allowed = sample.allowed(attention.spec.window)
        scores = attention.scores(query, key, sample.bias, sample.hidden)
        pb = attention.probability_codes(scores, allowed)
        codes.append(_by_head(attention.context(pb, value, sample.hidden)))
        repeated = attention.for_every_head(value)
        mixed.append(_by_head((pb * attention.probability_step) @ repeated))
        contexts.append(_by_head(p @ attention.for_every_head(sample.teacher[2])))
    b, x, y = torch.cat(codes, 1), torch.cat(mixed, 1), torch.cat(contexts, 1)
    mean_b, mean_x, mean_y = (z.mean(1, keepdim=True) for z in (b, x, y))
    b, x, y = b - mean_b, x - mean_x, y - mean_y
    # Per channel: least squares with an intercept.
    scale = (b * y).sum(1, keepdim=True) / b.square().sum(1, keepdim=True).clamp_min(1e-6)
    bias = mean_y - scale * mean_b
    attention.value_scale.copy_(scale)
    if estimator is not None:
        residual = y - b * scale
        for head in range(attention.spec.heads):
            e, z = exact(residual[head]), exact(x[head])
            up, down = reduced_rank_regression(
                e.T @ z / len(z), z.T @ z / len(z), estimator.rank, damping
            )
            estimator.left[head], estimator.right[head] = down.T, up
            bias[head] -= (exact(mean_x[head]) @ down.T @ up.T).to(bias)
    attention.context_bias.copy_(bias)
