"""Binary attention against a naive loop, its masks, and its estimators."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bipft_compress.nn import BinaryAttention

BATCH, HEADS, LENGTH, DIM = 2, 3, 5, 7
NEVER = torch.finfo(torch.float32).min


def _attention(seed: int = 0, **options) -> BinaryAttention:
    generator = torch.Generator().manual_seed(seed)
    attention = BinaryAttention(HEADS, DIM, **options)
    with torch.no_grad():
        for name, parameter in attention.named_parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
            if "scale" in name or "clip" in name:
                parameter.abs_().add_(0.1)
        attention.probability_scale.mul_(0.5)
    return attention


def _qkv(seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, BATCH, HEADS, LENGTH, DIM, generator=generator)


def _code(value: float, clip: float, bits: int) -> int:
    if bits == 1:
        return 1 if value >= 0 else -1
    odd = range(-(2**bits - 1), 2**bits, 2)
    return min(odd, key=lambda code: abs(value / clip - code))


def _naive(attention: BinaryAttention, qkv: torch.Tensor, allowed: np.ndarray) -> np.ndarray:
    """METHOD, section 2, one number at a time; `allowed` (batch, queries, keys)."""
    value = {name: p.detach().double().numpy() for name, p in attention.state_dict().items()}
    q, k, v = qkv.double().numpy()
    largest = 2**attention.bits - 1
    out = np.zeros((BATCH, HEADS, LENGTH, DIM))

    def codes(x, name, h, bits):
        shift, clip = value[f"{name}_shift"][h, 0], value[f"{name}_clip"][h, 0, 0]
        return [_code(x[d] - shift[d], clip, bits) for d in range(DIM)]

    for b in range(BATCH):
        for h in range(HEADS):
            for i in range(LENGTH):
                qi = codes(q[b, h, i], "query", h, attention.bits)
                scores = {}
                for j in np.flatnonzero(allowed[b, i]):
                    kj = codes(k[b, h, j], "key", h, attention.key_value_bits)
                    integer = sum(x * y for x, y in zip(qi, kj, strict=True))
                    scores[j] = value["score_scale"][h, 0, 0] * integer
                total = sum(math.exp(s) for s in scores.values())
                scale = value["probability_scale"][h, 0, 0]
                shift = 0.0
                if "probability_shift" in value:
                    shift = value["probability_shift"][h, 0, 0]
                for j, score in scores.items():
                    p = max(math.exp(score) / total - shift, 0.0)
                    weight = scale * min(math.floor(p / scale + 0.5), largest)
                    vj = codes(v[b, h, j], "value", h, attention.key_value_bits)
                    out[b, h, i] += weight * np.array(vj) * value["value_scale"][h, 0]
                out[b, h, i] += value["context_bias"][h, 0]
    return out


@pytest.mark.parametrize(("bits", "key_value_bits"), [(1, 1), (2, 1), (1, 2), (4, 4), (8, 8)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("elastic", [False, True])
def test_equals_the_naive_loop(bits, key_value_bits, masked, elastic):
    attention = _attention(bits=bits, key_value_bits=key_value_bits, elastic=elastic)
    qkv = _qkv()
    allowed = np.ones((BATCH, LENGTH, LENGTH), dtype=bool)
    mask = None
    if masked:
        allowed[0, :, 3:] = False
        mask = torch.from_numpy(allowed)[:, None]
    expected = _naive(attention, qkv, allowed)
    got = attention(*qkv, mask).detach().double().numpy()
    np.testing.assert_allclose(got, expected, atol=2e-5, rtol=1e-5)
    codes = attention.probability_codes(attention.scores(*qkv[:2]), mask)
    assert torch.equal(codes.round(), codes)
    assert len(codes.unique()) > 1  # both sets are in use, so the test says something


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_accumulate_scores_are_integers_of_bits(bits):
    attention, (q, k, _) = _attention(bits=bits), _qkv()
    acc = attention.accumulate_scores(q, k)
    state = attention.state_dict()
    for h, i, j in [(0, 0, 0), (1, 4, 2), (2, 3, 3)]:
        sq = (q[1, h, i] - state["query_shift"][h, 0]).tolist()
        sk = (k[1, h, j] - state["key_shift"][h, 0]).tolist()
        clip = state["query_clip"][h].item()
        expected = sum(_code(x, clip, bits) * _code(y, 1, 1) for x, y in zip(sq, sk, strict=True))
        assert acc[1, h, i, j].item() == expected
    # A sum of DIM odd numbers: odd, as DIM is.
    assert torch.equal(acc % 2, torch.ones_like(acc))


def _masks(allowed: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "boolean": allowed,
        "smallest": torch.zeros(allowed.shape).masked_fill(~allowed, NEVER),
        "infinite": torch.zeros(allowed.shape).masked_fill(~allowed, -math.inf),
    }


@pytest.mark.parametrize("kind", ["boolean", "smallest", "infinite"])
@pytest.mark.parametrize("bits", [1, 4])
def test_padding_never_leaks(kind, bits):
    attention = _attention(bits=bits, score_rank=2, context_rank=2)
    q, k, v = _qkv()
    allowed = torch.ones(BATCH, 1, 1, LENGTH, dtype=torch.bool)
    allowed[0, ..., 3:] = False
    mask = _masks(allowed)[kind]
    other_k, other_v = k.clone(), v.clone()
    other_k[0, :, 3:] = 100.0
    other_v[0, :, 3:] = -100.0
    out = attention(q, k, v, mask)
    torch.testing.assert_close(attention(q, other_k, other_v, mask), out, atol=1e-6, rtol=0)
    short = attention(q[:1, :, :3], k[:1, :, :3], v[:1, :, :3])
    torch.testing.assert_close(out[:1, :, :3], short, atol=1e-5, rtol=0)
    assert not torch.allclose(attention(q, other_k, other_v), attention(q, k, v))


@pytest.mark.parametrize("kind", ["boolean", "smallest", "infinite"])
@pytest.mark.parametrize("scale", [0.01, -1.0])
def test_a_row_that_may_attend_to_nothing_gets_only_the_bias(kind, scale):
    attention = _attention(bits=4, context_rank=2)
    with torch.no_grad():
        attention.probability_scale.fill_(scale)
    allowed = torch.ones(BATCH, 1, LENGTH, LENGTH, dtype=torch.bool)
    allowed[1, :, 2] = False
    out = attention(*_qkv(), _masks(allowed)[kind])
    assert torch.equal(out[1, :, 2], attention.context_bias.expand(HEADS, 1, DIM)[:, 0])
    assert torch.isfinite(out).all()


def test_finite_entries_of_an_additive_mask_are_position_biases():
    attention, (q, k, _) = _attention(), _qkv()
    bias = torch.randn(1, HEADS, LENGTH, LENGTH, generator=torch.Generator().manual_seed(5))
    p = (attention.scores(q, k) + bias).softmax(-1)
    scale = attention.probability_scale
    expected = (p >= scale / 2).float()
    assert torch.equal(attention.probability_codes(attention.scores(q, k), bias), expected)
    assert not torch.equal(attention.probability_codes(attention.scores(q, k), None), expected)


def test_estimators_add_the_low_rank_products():
    full, (q, k, v) = _attention(score_rank=2, context_rank=3), _qkv()
    plain = BinaryAttention(HEADS, DIM)
    plain.load_state_dict({n: p for n, p in full.state_dict().items() if "estimator" not in n})
    assert plain.score_estimator is None
    assert plain.context_estimator is None
    a, b = full.score_estimator.left, full.score_estimator.right
    residual = torch.einsum("bhid,hdr,bhje,her->bhij", q, a, k, b)
    torch.testing.assert_close(full.scores(q, k) - plain.scores(q, k), residual)
    p = plain.probability_codes(plain.scores(q, k), None)
    c, d = full.context_estimator.left, full.context_estimator.right
    residual = torch.einsum("bhij,bhjd,hdr,her->bhie", p, v, c, d)
    residual = residual * plain.probability_step
    torch.testing.assert_close(full.context(p, v) - plain.context(p, v), residual)


@pytest.mark.parametrize("bits", [1, 4])
def test_training_computes_what_evaluation_does(bits):
    """Scales on the smaller side, or integers first: the same but for rounding."""
    attention, qkv = _attention(bits=bits, score_rank=2, context_rank=2), _qkv()
    torch.testing.assert_close(attention.train()(*qkv), attention.eval()(*qkv))


def test_every_parameter_gets_a_gradient():
    attention = _attention(score_rank=1, context_rank=1, elastic=True, clip=5.0)
    attention(*_qkv()).square().sum().backward()
    for name, parameter in attention.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_starts_as_scaled_dot_product_scores():
    """Before calibration: estimators at zero and the usual 1 / sqrt(head size)."""
    attention = BinaryAttention(HEADS, 16, score_rank=2)
    ones = torch.ones(1, HEADS, 1, 16)
    assert attention.scores(ones, ones).flatten().tolist() == [4.0] * HEADS


def test_bi_attention_attends_where_a_score_is_not_negative():
    attention, (q, k, v) = _attention(boolean=True), _qkv()
    mask = torch.ones(BATCH, 1, 1, LENGTH, dtype=torch.bool)
    mask[1, ..., 3:] = False
    scores = attention.scores(q, k)
    codes = attention.probability_codes(scores, mask)
    assert torch.equal(codes, ((scores >= 0) & mask).float())
    shift, clip = attention.value_shift, attention.value_scale
    values = torch.where(v - shift >= 0, clip, -clip)
    expected = (codes * attention.probability_step) @ values + attention.context_bias
    torch.testing.assert_close(attention.eval()(q, k, v, mask), expected)


def test_bi_attention_never_sees_padding():
    attention, (q, k, v) = _attention(boolean=True), _qkv()
    mask = torch.ones(BATCH, 1, 1, LENGTH)
    additive = mask.masked_fill(torch.arange(LENGTH) >= 3, NEVER)
    k2, v2 = k.clone(), v.clone()
    k2[..., 3:, :], v2[..., 3:, :] = 9.0, -9.0
    assert torch.equal(attention(q, k, v, additive - 1), attention(q, k2, v2, additive - 1))


def test_shared_estimators_add_the_residual_polynomial():
    """q_m k_p^T + q_p k_m^T + q_p k_p^T of hidden states, the same in every head."""
    full, (q, k, v) = _attention(score_rank=2, context_rank=3, hidden_size=11), _qkv()
    plain = BinaryAttention(HEADS, DIM)
    plain.load_state_dict({n: p for n, p in full.state_dict().items() if "estimator" not in n})
    x = torch.randn(BATCH, LENGTH, 11, generator=torch.Generator().manual_seed(4))
    shared = full.shared_estimator
    qm, qp = x @ shared.query_main, x @ shared.query_residual
    km, kp = x @ shared.key_main, x @ shared.key_residual
    residual = qm @ kp.mT + qp @ km.mT + qp @ kp.mT
    difference = full.scores(q, k, x) - plain.scores(q, k)
    torch.testing.assert_close(difference, residual.unsqueeze(1).expand_as(difference))
    p = plain.probability_codes(plain.scores(q, k), None)
    residual = (p * plain.probability_step) @ (x @ shared.value_down @ shared.value_up).unsqueeze(1)
    torch.testing.assert_close(full.context(p, v, x) - plain.context(p, v), residual)


@pytest.mark.parametrize("at_random", [True, False])
def test_a_shared_estimator_can_be_learnt_from_its_start(at_random):
    torch.manual_seed(0)
    attention, (q, k, v) = _attention(score_rank=1, context_rank=1, hidden_size=11), _qkv()
    with torch.no_grad():
        for parameter in attention.shared_estimator.parameters():
            parameter.zero_()
    attention.shared_estimator.start(at_random=at_random)
    x = torch.randn(BATCH, LENGTH, 11)
    assert (attention.scores(q, k, x) == attention.scores(q, k)).all() != at_random
    attention(q, k, v, None, x).square().sum().backward()
    grads = {n: p.grad.abs().sum() > 0 for n, p in attention.shared_estimator.named_parameters()}
    assert all(grads[name] for name in ("query_residual", "key_residual", "value_up"))
