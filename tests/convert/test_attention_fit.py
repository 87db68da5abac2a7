"""The closed-form start of attention against least squares on the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bipft_compress.convert.attention_fit import fit_attention, start_attention_by_magnitude
from bipft_compress.nn import BinaryAttention, signed_codes

HEADS, DIM = 3, 6


def _samples(batch: int = 3, lengths: tuple[int, ...] = (11, 8), seed: int = 0):
    """Students are noisy teachers; queries and keys have means, as real ones do."""
    generator = torch.Generator().manual_seed(seed)
    samples = []
    mean = torch.randn(3, 1, HEADS, 1, DIM, generator=generator)
    for length in lengths:
        teacher = torch.randn(3, batch, HEADS, length, DIM, generator=generator) * 1.5 + mean
        noise = torch.randn(teacher.shape, generator=generator)
        samples.append((teacher + 0.3 * noise, teacher))
    return samples


def _wanted(teacher: torch.Tensor) -> torch.Tensor:
    return teacher[0] @ teacher[1].transpose(-1, -2) / DIM**0.5


def _centre(scores):
    return scores - scores.mean(-1, keepdims=True)


def _fit(samples, **options) -> BinaryAttention:
    attention = BinaryAttention(HEADS, DIM, **options)
    fit_attention(attention, samples, damping=1e-9)
    return attention


def test_quantizers_take_means_and_spreads():
    samples = _samples()
    attention = _fit(samples)
    for position, name in enumerate(("query", "key", "value")):
        x = torch.cat([s[position].transpose(0, 1).flatten(1, 2) for s, _ in samples], 1)
        shift = torch.zeros_like(x[:, :1]) if name == "query" else x.mean(1, keepdim=True)
        torch.testing.assert_close(getattr(attention, f"{name}_shift").detach(), shift)
        spread = (x - shift).abs().mean((1, 2))
        clip = getattr(attention, f"{name}_clip").detach().flatten()
        torch.testing.assert_close(clip, spread)


@pytest.mark.parametrize(("bits", "error"), [(1, 0.3634), (2, 0.1188), (4, 0.01154), (8, 1.04e-4)])
@pytest.mark.parametrize("name", ["query", "key", "value"])
def test_k_bit_codes_of_a_normal_have_the_error_of_the_best_quantizer(bits, error, name):
    """Max 1960, table II: mean squared error of the best uniform quantizer of a normal."""
    qkv = torch.randn(3, 64, 1, 40, 16, generator=torch.Generator().manual_seed(0))
    attention = BinaryAttention(1, 16, bits=bits, key_value_bits=bits)
    fit_attention(attention, [(qkv[:, :2], qkv[:, :2])], damping=1e-3)
    x = qkv[("query", "key", "value").index(name)]
    shift, clip = getattr(attention, f"{name}_shift"), getattr(attention, f"{name}_clip")
    rounded = signed_codes(x - shift, clip, bits) * clip + shift
    tolerance = 0.15 if bits == 8 else 0.05
    assert (rounded - x).square().mean().item() == pytest.approx(error, rel=tolerance)


@pytest.mark.parametrize("bits", [1, 4])
def test_score_scale_is_least_squares(bits):
    samples = _samples()
    attention = _fit(samples, bits=bits, key_value_bits=bits)
    for head in range(HEADS):
        codes, targets = [], []
        for student, teacher in samples:
            acc = attention.accumulate_scores(student[0], student[1])[:, head].double()
            codes.append(_centre(acc.numpy()).ravel())
            targets.append(_centre(_wanted(teacher)[:, head].double().numpy()).ravel())
        b, y = np.concatenate(codes), np.concatenate(targets)
        expected = np.linalg.lstsq(b[:, None], y, rcond=None)[0][0]
        assert attention.score_scale[head].item() == pytest.approx(expected, rel=1e-4)


def _score_residual(attention, samples, head):
    """What the binary scores leave to the estimator, and the estimator's answer, both centred."""
    student, teacher = samples[0]
    acc = attention.accumulate_scores(student[0], student[1])[0, head].double()
    scale = attention.score_scale[head].item()
    residual = _centre(_wanted(teacher)[0, head].double()) - scale * _centre(acc)
    estimated = attention.score_estimator.scores(student[0], student[1])[0, head]
    return residual.numpy(), _centre(estimated.detach().double().numpy())


def test_full_rank_score_estimator_is_bilinear_least_squares():
    """One sequence: min |E - Q M K'|^2 over all M, as one least-squares problem."""
    samples = _samples(batch=1, lengths=(17,))
    attention = _fit(samples, score_rank=DIM)
    student = samples[0][0].double().numpy()
    for head in range(HEADS):
        residual, estimated = _score_residual(attention, samples, head)
        q, k = student[0, 0, head], student[1, 0, head]
        design = np.kron(q, k - k.mean(0))  # row (i, j), column (a, b): q_ia k_jb
        solution = np.linalg.lstsq(design, residual.ravel(), rcond=None)[0]
        np.testing.assert_allclose(estimated.ravel(), design @ solution, atol=1e-4)


def test_reduced_rank_score_estimator_is_eckart_young():
    samples = _samples(batch=1, lengths=(17,))
    full, two = _fit(samples, score_rank=DIM), _fit(samples, score_rank=2)
    for head in range(HEADS):
        _, best = _score_residual(full, samples, head)
        _, estimated = _score_residual(two, samples, head)
        left, values, right = np.linalg.svd(best)
        expected = (left[:, :2] * values[:2]) @ right[:2]
        np.testing.assert_allclose(estimated, expected, atol=1e-4)


def test_score_estimators_lower_the_error_over_many_sequences():
    samples = _samples(batch=8, lengths=(20, 15))

    def error(rank):
        attention = _fit(samples, score_rank=rank)
        return sum(
            (_centre(attention.scores(s[0], s[1])) - _centre(_wanted(t))).square().sum().item()
            for s, t in samples
        )

    errors = [error(rank) for rank in (0, 1, 2, 4)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.7 * errors[0]


def _contexts(attention, samples):
    """Unscaled binary context, mixed values and wanted context, by head: (heads, tokens, dim)."""
    parts = []
    with torch.no_grad():
        for student, teacher in samples:
            p = attention.probability_codes(attention.scores(student[0], student[1]), None)
            p = p * attention.probability_step
            v = student[2] - attention.value_shift
            codes = torch.where(v >= 0, 1.0, -1.0)
            wanted = _wanted(teacher).softmax(-1) @ teacher[2]
            parts.append((p @ codes, p @ student[2], wanted))
    kinds = zip(*parts, strict=True)
    return [torch.cat([x.transpose(0, 1).flatten(1, 2) for x in kind], 1) for kind in kinds]


def test_context_scale_and_bias_are_least_squares():
    samples = _samples()
    attention = _fit(samples)
    b, _, y = (part.double().numpy() for part in _contexts(attention, samples))
    for head in range(HEADS):
        for channel in range(DIM):
            design = np.stack([b[head, :, channel], np.ones(b.shape[1])], 1)
            scale, bias = np.linalg.lstsq(design, y[head, :, channel], rcond=None)[0]
            found = attention.value_scale[head, 0, channel].item()
            assert found == pytest.approx(scale, rel=1e-3, abs=1e-4)
            found = attention.context_bias[head, 0, channel].item()
            assert found == pytest.approx(bias, rel=1e-3, abs=1e-4)


@torch.no_grad()
def test_full_rank_context_estimator_is_least_squares_of_the_residual():
    samples = _samples()
    attention = _fit(samples, context_rank=DIM)
    b, x, y = _contexts(attention, samples)
    got = torch.cat(
        [attention(*student).transpose(0, 1).flatten(1, 2) for student, _ in samples], 1
    )
    for head in range(HEADS):
        residual = (y[head] - b[head] * attention.value_scale[head]).double().numpy()
        design = np.concatenate([x[head].double().numpy(), np.ones((len(x[head]), 1))], 1)
        fitted = design @ np.linalg.lstsq(design, residual, rcond=None)[0]
        expected = b[head] * attention.value_scale[head] + torch.from_numpy(fitted).float()
        torch.testing.assert_close(got[head], expected, atol=2e-4, rtol=1e-3)


def test_probability_scale_is_the_best_of_a_grid():
    samples = _samples()
    attention = _fit(samples)
    errors = torch.zeros(17, HEADS)
    for student, teacher in samples:
        p = attention.scores(student[0], student[1]).softmax(-1)
        for row, scale in enumerate(np.logspace(-2, 0, 17)):
            pb = torch.where(p >= scale / 2, float(scale), 0.0)
            errors[row] += (pb - _wanted(teacher).softmax(-1)).square().sum((0, 2, 3))
    best = np.logspace(-2, 0, 17)[errors.argmin(0).numpy()]
    found = attention.probability_scale.detach().flatten().numpy()
    np.testing.assert_allclose(found, best, rtol=1e-5)


@pytest.mark.parametrize(("bits", "boolean"), [(1, False), (2, False), (1, True)])
def test_a_start_by_magnitude_is_the_papers(bits, boolean):
    student = _samples()[0][0]
    attention = BinaryAttention(HEADS, DIM, bits=bits, boolean=boolean)
    start_attention_by_magnitude(attention, student, at_random=False)
    # BiT: twice the mean of probabilities over the root of the largest code.
    expected = {1: 2 / 11, 2: 2 / 11 / 3**0.5}[bits]
    torch.testing.assert_close(
        attention.probability_scale.detach(), torch.full((HEADS, 1, 1), expected)
    )
    if bits == 1:
        for name, x in zip(("query", "key", "value"), student, strict=True):
            spread = x.abs().mean((0, 2, 3))
            torch.testing.assert_close(getattr(attention, f"{name}_clip").flatten(), spread)
            assert not getattr(attention, f"{name}_shift").any()


def test_bi_attention_starts_with_a_mean_of_values_not_with_their_sum():
    """A context that is a sum outweighs the residual stream: its scale reads a first batch."""
    # An odd width has no scores of 0, so that half of them are on.
    student = torch.randn(3, 4, HEADS, 40, 15, generator=torch.Generator().manual_seed(0))
    student[2] = student[2].abs()  # values of one sign: their mean is as large as they are
    attention = BinaryAttention(HEADS, 15, boolean=True)
    start_attention_by_magnitude(attention, student, at_random=False)
    context = attention(*student)
    assert 0.9 < float(context.mean() / student[2].mean()) < 1.1
