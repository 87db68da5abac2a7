"""The closed-form start of attention against least squares on the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bipft_compress.fitting.attention import (
    AttentionSample,
    fit_attention,
    start_attention_by_magnitude,
)
from bipft_compress.nn import BinaryAttention, FullAttention, signed_codes
from bipft_compress.spec import AttentionSpec, RelativeSpec

HEADS, DIM = 3, 6


def _spec(heads: int = HEADS, head_dim: int = DIM, **more) -> AttentionSpec:
    width = heads * head_dim
    return AttentionSpec(
        **{
            "width": width,
            "value_width": width,
            "heads": heads,
            "key_value_heads": heads,
            "head_dim": head_dim,
            "output_width": width,
            "score_scale": head_dim**-0.5,
            **more,
        }
    )


SPECS = {
    "plain": _spec(),
    "grouped": _spec(heads=4, key_value_heads=2),
    "window": _spec(window=3),
    "disentangled": _spec(relative=RelativeSpec(8)),
    "content to position": _spec(relative=RelativeSpec(4, queries=False)),
    "all at once": _spec(heads=4, key_value_heads=2, window=4, relative=RelativeSpec(4, 4, 12)),
}
"""What attentions may differ in."""


def _original(spec: AttentionSpec) -> FullAttention:
    """The teacher's, with tables of positions where it has some."""
    original, generator = FullAttention(spec), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for table in original.parameters():
            table.normal_(0.3, 1.0, generator=generator)
    return original


def _samples(
    batch: int = 3,
    lengths: tuple[int, ...] = (11, 8),
    seed: int = 0,
    spec: AttentionSpec | None = None,
    **more,
) -> list[AttentionSample]:
    """Students are noisy teachers; queries and keys have means, as real ones do."""
    spec, generator = spec or _spec(), torch.Generator().manual_seed(seed)
    heads = spec.heads, spec.key_value_heads, spec.key_value_heads
    means = [torch.randn(1, one, 1, spec.head_dim, generator=generator) for one in heads]
    samples = []
    for length in lengths:
        teacher = [
            1.5 * torch.randn(batch, mean.shape[1], length, spec.head_dim, generator=generator)
            + mean
            for mean in means
        ]
        student = [x + 0.3 * torch.randn(x.shape, generator=generator) for x in teacher]
        samples.append(AttentionSample(tuple(student), tuple(teacher), **more))
    return samples


def _wanted(teacher) -> torch.Tensor:
    return teacher[0] @ teacher[1].transpose(-1, -2) / DIM**0.5


def _centre(scores, allowed=None):
    """Without what softmax ignores; `allowed` is where attention is allowed."""
    if allowed is None:
        return scores - scores.mean(-1, keepdims=True)
    scores = np.where(allowed, scores, np.nan)
    return np.nan_to_num(scores - np.nanmean(scores, -1, keepdims=True))


def _fit(samples, spec: AttentionSpec | None = None, **options) -> BinaryAttention:
    attention = BinaryAttention(spec or _spec(), **options)
    fit_attention(attention, _original(attention.spec), samples, damping=1e-9)
    return attention.eval()


def test_quantizers_take_means_and_spreads():
    samples = _samples()
    attention = _fit(samples)
    for position, name in enumerate(("query", "key", "value")):
        x = torch.cat([s.student[position].transpose(0, 1).flatten(1, 2) for s in samples], 1)
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
    spec = _spec(heads=1, head_dim=16)
    attention = BinaryAttention(spec, bits=bits, key_value_bits=bits)
    heads = tuple(qkv)
    fit_attention(attention, FullAttention(spec), [AttentionSample(heads, heads)], damping=1e-3)
    x = qkv[("query", "key", "value").index(name)]
    shift, clip = getattr(attention, f"{name}_shift"), getattr(attention, f"{name}_clip")
    rounded = signed_codes(x - shift, clip, bits) * clip + shift
    measured = (rounded - x).square().mean().item()
    # No sample has the far tails that eight bits would have to reach.
    assert measured < 1.05 * error
    assert measured > (0.7 if bits == 8 else 0.95) * error


@pytest.mark.parametrize("bits", [1, 4])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("mask", [None, "boolean", "additive", "of tokens"])
def test_score_scales_are_joint_least_squares(spec, bits, mask):
    """Of the integers of contents and of positions, at the pairs that attend to each other."""
    lengths, masks, shorter = (11, 8), {None: None}, 7
    for length in lengths:
        real = torch.ones(3, length, dtype=torch.bool)
        real[1, shorter:] = False
        masks[length] = {
            None: None,
            "boolean": real[:, None, None],
            "additive": torch.zeros(3, 1, 1, length).masked_fill(
                ~real[:, None, None], torch.finfo(torch.float32).min
            ),
            "of tokens": real.long(),
        }[mask]
    samples = [
        sample
        for length in lengths
        for sample in _samples(lengths=(length,), seed=length, spec=spec, mask=masks[length])
    ]
    attention, original = _fit(samples, spec, bits=bits, key_value_bits=bits), _original(spec)
    names = list(attention.accumulate_scores(*samples[0].student[:2]))
    assert len(names) == 1 + sum(name.startswith("position") for name in original.state_dict())
    for head in range(spec.heads):
        designs, targets = [], []
        for sample in samples:
            length = sample.student[0].shape[-2]
            real = np.ones((3, 1, length), bool)
            if mask is not None:
                real[1, :, shorter:] = False
            position = np.arange(length)
            near = abs(position[:, None] - position) <= (spec.window or length)
            allowed = real & near
            some = allowed.any(-1)
            integers = attention.accumulate_scores(*sample.student[:2])
            columns = [integers[name][:, head].double().numpy() for name in names]
            wanted = original.scores(*sample.teacher[:2])[:, head].detach().double().numpy()
            designs.append(
                np.stack([_centre(x[some], allowed[some])[allowed[some]] for x in columns], 1)
            )
            targets.append(_centre(wanted[some], allowed[some])[allowed[some]])
        expected = np.linalg.lstsq(np.concatenate(designs), np.concatenate(targets), rcond=None)[0]
        found = [getattr(attention, name)[head].item() for name in names]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_a_bias_of_positions_is_no_part_of_what_scales_are_fitted_to():
    """Both models add the same one: it comes back in the probabilities alone."""
    bias = 2 * torch.randn(HEADS, 8, 8, generator=torch.Generator().manual_seed(2))
    samples, biased = _samples(lengths=(8,)), _samples(lengths=(8,), bias=bias)
    plain, other = _fit(samples), _fit(biased)
    assert torch.equal(plain.score_scale, other.score_scale)
    assert not torch.equal(plain.probability_scale, other.probability_scale)
    for attention, given in ((plain, samples[0]), (other, biased[0])):
        wanted = _original(attention.spec).probabilities(*given.teacher[:2], None, given.bias)
        p = attention.scores(*given.student[:2], given.bias).softmax(-1)
        grid = np.logspace(-2, 0, 17)
        errors = [
            (torch.where(p >= scale / 2, float(scale), 0.0) - wanted).square().sum((0, 2, 3))
            for scale in grid
        ]
        best = grid[torch.stack(errors).argmin(0).numpy()]
        found = attention.probability_scale.detach().flatten().numpy()
        np.testing.assert_allclose(found, best, rtol=1e-5)


def test_tables_of_positions_start_as_the_teachers():
    """But for what all keys share, which softmax ignores."""
    spec = SPECS["disentangled"]
    attention, original = _fit(_samples(spec=spec), spec), _original(spec)
    assert torch.equal(attention.position_query, original.position_query)
    centred = original.position_key - original.position_key.mean(1, keepdim=True)
    torch.testing.assert_close(attention.position_key, centred)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_kind_of_attention_comes_close_to_the_teachers(spec):
    """With 8 bits and estimators of full rank there is little left to lose."""
    samples = _samples(batch=8, lengths=(12,), spec=spec)
    samples = [AttentionSample(sample.teacher, sample.teacher) for sample in samples]
    original = _original(spec)
    options = {"score_rank": DIM, "context_rank": DIM, "bits": 8, "key_value_bits": 8}
    with torch.no_grad():
        wanted = original(*samples[0].teacher)
        errors = [
            (_fit(samples, spec, **chosen)(*samples[0].student) - wanted).square().mean().item()
            for chosen in ({}, options)
        ]
    assert errors[0] < 0.9 * wanted.var().item()
    # The tables keep one bit.
    assert errors[1] < (0.002 if spec.relative is None else 0.5) * wanted.var().item()


def _score_residual(attention, samples, head):
    """What the binary scores leave to the estimator, and the estimator's answer, both centred."""
    student, teacher = samples[0].student, samples[0].teacher
    acc = attention.accumulate_scores(student[0], student[1])["score_scale"][0, head].double()
    scale = attention.score_scale[head].item()
    residual = _centre(_wanted(teacher)[0, head].double()) - scale * _centre(acc)
    estimated = attention.score_estimator.scores(student[0], student[1])[0, head]
    return residual.numpy(), _centre(estimated.detach().double().numpy())


def test_full_rank_score_estimator_is_bilinear_least_squares():
    """One sequence: min |E - Q M K'|^2 over all M, as one least-squares problem."""
    samples = _samples(batch=1, lengths=(17,))
    attention = _fit(samples, score_rank=DIM)
    student = [x.double().numpy() for x in samples[0].student]
    for head in range(HEADS):
        residual, estimated = _score_residual(attention, samples, head)
        q, k = student[0][0, head], student[1][0, head]
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
            (_centre(attention.scores(*s.student[:2])) - _centre(_wanted(s.teacher)))
            .square()
            .sum()
            .item()
            for s in samples
        )

    errors = [error(rank) for rank in (0, 1, 2, 4)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.7 * errors[0]


def _contexts(attention, samples):
    """Unscaled binary context, mixed values and wanted context, by head: (heads, tokens, dim)."""
    parts = []
    with torch.no_grad():
        for sample in samples:
            student, teacher = sample.student, sample.teacher
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
    got = torch.cat([attention(*s.student).transpose(0, 1).flatten(1, 2) for s in samples], 1)
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
    for sample in samples:
        student, teacher = sample.student, sample.teacher
        p = attention.scores(student[0], student[1]).softmax(-1)
        for row, scale in enumerate(np.logspace(-2, 0, 17)):
            pb = torch.where(p >= scale / 2, float(scale), 0.0)
            errors[row] += (pb - _wanted(teacher).softmax(-1)).square().sum((0, 2, 3))
    best = np.logspace(-2, 0, 17)[errors.argmin(0).numpy()]
    found = attention.probability_scale.detach().flatten().numpy()
    np.testing.assert_allclose(found, best, rtol=1e-5)


@pytest.mark.parametrize(("bits", "boolean"), [(1, False), (2, False), (1, True)])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_start_by_magnitude_is_the_papers(spec, bits, boolean):
    sample, original = _samples(spec=spec)[0], _original(spec)
    attention = BinaryAttention(spec, bits=bits, boolean=boolean)
    start_attention_by_magnitude(attention, original, sample, at_random=False)
    # BiT: twice the mean of probabilities over the root of the largest code.
    expected = {1: 2 / 11, 2: 2 / 11 / 3**0.5}[bits]
    torch.testing.assert_close(
        attention.probability_scale.detach(), torch.full((spec.heads, 1, 1), expected)
    )
    for name, table in original.named_parameters():
        assert torch.equal(getattr(attention, name), table)
    if bits > 1:
        return
    spreads = []
    for name, x in zip(("query", "key", "value"), sample.student, strict=True):
        spreads.append(x.abs().mean((0, 2, 3)))
        torch.testing.assert_close(getattr(attention, f"{name}_clip").flatten(), spreads[-1])
        assert not getattr(attention, f"{name}_shift").any()
    groups = spec.heads // spec.key_value_heads
    query, key, value = spreads[0], *(x.repeat_interleave(groups) for x in spreads[1:])
    scale = spec.score_scale
    torch.testing.assert_close(attention.score_scale.flatten(), query * key * scale)
    torch.testing.assert_close(
        attention.value_scale, value.view(-1, 1, 1).expand_as(attention.value_scale)
    )
    for name, content in (("position_key", query), ("position_query", key)):
        table = getattr(original, name)
        if table is not None:
            found = getattr(attention, f"{name}_scale").flatten()
            torch.testing.assert_close(found, content * table.abs().mean((1, 2)) * scale)


def test_bi_attention_starts_with_a_mean_of_values_not_with_their_sum():
    """A context that is a sum outweighs the residual stream: its scale reads a first batch."""
    # An odd width has no scores of 0, so that half of them are on.
    student = torch.randn(3, 4, HEADS, 40, 15, generator=torch.Generator().manual_seed(0))
    student[2] = student[2].abs()  # values of one sign: their mean is as large as they are
    spec = _spec(head_dim=15)
    attention = BinaryAttention(spec, boolean=True)
    sample = AttentionSample(tuple(student), tuple(student))
    start_attention_by_magnitude(attention, FullAttention(spec), sample, at_random=False)
    context = attention(*student)
    assert 0.9 < (context.mean() / student[2].mean()).item() < 1.1
