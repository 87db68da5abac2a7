"""Distillation terms: zero for a perfect student, blind to padding, right on small numbers."""

from __future__ import annotations

import math

import pytest
import torch

from bipft_compress import losses
from bipft_compress.nn.pooling import mean_pool

BATCH, HEADS, LENGTH, DIM = 3, 2, 6, 4
LENGTHS = (6, 4, 2)


def _normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _mask() -> torch.Tensor:
    return (torch.arange(LENGTH) < torch.tensor(LENGTHS)[:, None]).long()


SHAPES = {
    losses.hidden_state_mse: (BATCH, LENGTH, DIM),
    losses.attention_score_mse: (BATCH, HEADS, LENGTH, LENGTH),
    losses.direction_mse: (BATCH, HEADS, LENGTH, DIM),
    losses.soft_cross_entropy: (BATCH, LENGTH, DIM),
}
MASKED = pytest.mark.parametrize("term", SHAPES, ids=lambda term: term.__name__)


def _pair(term):
    return _normal(*SHAPES[term], seed=1), _normal(*SHAPES[term], seed=2)


@MASKED
def test_a_perfect_student_has_no_loss(term):
    teacher = _pair(term)[1]
    loss = term(teacher.clone(), teacher, _mask())
    if term is losses.soft_cross_entropy:  # its least value is the teacher's entropy
        p = teacher.softmax(-1)
        entropy = -(p * p.log()).sum(-1)[_mask().bool()].mean()
        torch.testing.assert_close(loss, entropy)
    else:
        assert loss.item() == 0


def _disturb_padding(term, x, value):
    """Change every entry that belongs to padding."""
    keep = _mask().bool()
    if term in (losses.hidden_state_mse, losses.soft_cross_entropy):
        return x.masked_fill(~keep[..., None], value)
    if term is losses.direction_mse:
        return x.masked_fill(~keep[:, None, :, None], value)
    pairs = keep[:, None, :, None] & keep[:, None, None, :]
    return x.masked_fill(~pairs, value)


@MASKED
def test_padding_never_counts(term):
    student, teacher = _pair(term)
    expected = term(student, teacher, _mask())
    assert expected > 0
    for value in (0.0, 50.0):
        s, t = _disturb_padding(term, student, value), _disturb_padding(term, teacher, -value)
        torch.testing.assert_close(term(s, t, _mask()), expected)
        torch.testing.assert_close(term(s, t, _mask().bool()), expected)


@pytest.mark.parametrize("term", [losses.hidden_state_mse, losses.attention_score_mse])
def test_scale_of_the_teacher_does_not_matter(term):
    student, teacher = _pair(term)
    expected = term(student, teacher, _mask())
    torch.testing.assert_close(term(10 * student, 10 * teacher, _mask()), expected)


@MASKED
def test_gradients_are_finite_and_reach_only_real_tokens(term):
    student, teacher = _pair(term)
    student.requires_grad_()
    term(student, teacher, _mask()).backward()
    assert torch.isfinite(student.grad).all()
    assert student.grad.abs().sum() > 0
    outside = _disturb_padding(term, torch.zeros_like(student), 1.0).bool()
    assert student.grad[outside].abs().max() == 0


def test_hidden_state_mse_by_hand():
    teacher = torch.tensor([[[1.0, 0.0], [3.0, 4.0], [9.0, 9.0]]])
    student = torch.tensor([[[1.0, 1.0], [3.0, 2.0], [0.0, 0.0]]])
    mask = torch.tensor([[1, 1, 0]])
    # Errors 0, 1, 0, 4: mean 1.25. Deviations of the teacher -1, 1 and -2, 2: mean square 2.5.
    assert losses.hidden_state_mse(student, teacher, mask).item() == pytest.approx(0.5)
    # The teacher's mean as an answer costs exactly one.
    mean = torch.tensor([[[2.0, 2.0]]]).expand(1, 3, 2)
    assert losses.hidden_state_mse(mean, teacher, mask).item() == pytest.approx(1.0)


def test_soft_cross_entropy_by_hand():
    teacher = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])  # 3/4 1/4 and 1/2 1/2
    student = torch.tensor([[0.0, 0.0], [math.log(9.0), 0.0]])  # 1/2 1/2 and 9/10 1/10
    first, second = math.log(2), -0.5 * math.log(0.9) - 0.5 * math.log(0.1)
    loss = losses.soft_cross_entropy(student, teacher)
    assert loss.item() == pytest.approx((first + second) / 2)
    only = losses.soft_cross_entropy(student, teacher, torch.tensor([0, 1]))
    assert only.item() == pytest.approx(second)


def test_attention_score_mse_by_hand():
    teacher = torch.tensor([[[[1.0, 3.0, 50.0], [0.0, 4.0, 50.0], [7.0, 7.0, 7.0]]]])
    student = torch.tensor([[[[5.0, 5.0, -9.0], [1.0, 3.0, -9.0], [0.0, 9.0, 1.0]]]])
    mask = torch.tensor([[1, 1, 0]])
    # Centred over the two keys: teacher -1 1, -2 2; student 0 0, -1 1. Errors 1 1 1 1 over 10.
    assert losses.attention_score_mse(student, teacher, mask).item() == pytest.approx(0.4)
    # What a row has in common is ignored.
    moved = teacher + torch.tensor([3.0, -8.0, 1.0])[:, None]
    assert losses.attention_score_mse(moved, teacher, mask).item() == pytest.approx(0, abs=1e-6)


def test_direction_mse_by_hand():
    teacher = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])  # similarity: identity, norm sqrt 2
    student = torch.tensor([[[[2.0, 0.0], [2.0, 0.0]]]])  # all entries 4, norm 8
    mask = torch.ones(1, 2)
    a = 1 / math.sqrt(2)
    # Normalised: a 0 0 a against four times 0.5; mean over 4 pairs, times length^2 = 4.
    expected = 2 * (a - 0.5) ** 2 + 2 * 0.5**2
    assert losses.direction_mse(student, teacher, mask).item() == pytest.approx(expected)
    # Only directions count: a longer student with the same ones is perfect.
    assert losses.direction_mse(7 * teacher, teacher, mask).item() == pytest.approx(0, abs=1e-6)


def test_mean_pool_ignores_padding():
    hidden = _normal(BATCH, LENGTH, DIM, seed=3)
    pooled = mean_pool(hidden, _mask())
    for row, length in enumerate(LENGTHS):
        torch.testing.assert_close(pooled[row], hidden[row, :length].mean(0))
    assert mean_pool(hidden, torch.zeros(BATCH, LENGTH)).abs().max() == 0


def test_sentence_cosine_by_hand():
    teacher = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert losses.sentence_cosine(3 * teacher, teacher).item() == pytest.approx(0)
    assert losses.sentence_cosine(-teacher, teacher).item() == pytest.approx(2)
    student = torch.tensor([[1.0, 1.0], [5.0, 0.0]])  # cosines 1/sqrt 2 and 0
    expected = 1 - math.sqrt(0.5) / 2
    assert losses.sentence_cosine(student, teacher).item() == pytest.approx(expected)


def test_sentence_similarity_by_hand():
    # Cosines of the teacher: (0, 1) 0, (0, 2) 1, (1, 2) 0; of the student: 0.6, 0, 0.8.
    teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0], [4.0, 0.0]])
    student = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 3.0]])

    def kl(p_logits, q_logits):
        p = [math.exp(x) / sum(map(math.exp, p_logits)) for x in p_logits]
        q = [math.exp(x) / sum(map(math.exp, q_logits)) for x in q_logits]
        return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))

    rows = [kl([0, 2], [1.2, 0]), kl([0, 0], [1.2, 1.6]), kl([2, 0], [0, 1.6])]
    loss = losses.sentence_similarity(student, teacher, temperature=0.5)
    assert loss.item() == pytest.approx(sum(rows) / 3, rel=1e-5)


def test_sentence_similarity_at_its_ends():
    teacher = _normal(5, DIM, seed=4)
    perfect = losses.sentence_similarity(2 * teacher, teacher, temperature=0.05)
    assert perfect.item() == pytest.approx(0, abs=1e-5)
    student = _normal(1, DIM, seed=5).requires_grad_()
    alone = losses.sentence_similarity(student, teacher[:1], temperature=0.05)
    assert alone.item() == 0
    alone.backward()
    assert student.grad.abs().max() == 0
    # At the default temperature opposite embeddings still have finite gradients.
    student = (-teacher).requires_grad_()
    losses.sentence_similarity(student, teacher, temperature=0.05).backward()
    assert torch.isfinite(student.grad).all()


def test_sentence_similarity_under_autocast():
    student, teacher = torch.randn(5, 8), torch.randn(5, 8)
    full = losses.sentence_similarity(student, teacher, 0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = losses.sentence_similarity(student, teacher, 0.5)
    torch.testing.assert_close(narrow, full, rtol=0.05, atol=0.02)


def test_similarity_ranking_by_hand():
    cosines, labels = torch.tensor([0.5, 0.2, 0.3]), torch.tensor([3.0, 1.0, 1.0])
    # Two pairs stand in an order: the first above each of the others.
    expected = math.log(1 + math.exp((0.2 - 0.5) / 0.1) + math.exp((0.3 - 0.5) / 0.1))
    assert losses.similarity_ranking(cosines, labels, 0.1).item() == pytest.approx(expected)
    shifted = losses.similarity_ranking(cosines, 7 * labels - 3, 0.1)
    assert shifted.item() == pytest.approx(expected)
    assert losses.similarity_ranking(cosines, torch.ones(3)).item() == 0
