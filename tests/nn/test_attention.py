"""Binary attention against a naive loop, its masks, and its estimators."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from bipft_compress.nn import BinaryAttention, FullAttention
from bipft_compress.nn.attention import read_mask
from bipft_compress.spec import AttentionSpec, RelativeSpec

BATCH, HEADS, LENGTH, DIM = 2, 3, 5, 7
WIDTH = 11
NEVER = torch.finfo(torch.float32).min


def _spec(heads: int = HEADS, head_dim: int = DIM, **more) -> AttentionSpec:
    return AttentionSpec(
        **{
            "width": WIDTH,
            "value_width": WIDTH,
            "heads": heads,
            "key_value_heads": heads,
            "head_dim": head_dim,
            "output_width": WIDTH,
            "score_scale": head_dim**-0.5,
            **more,
        }
    )


SPECS = {
    "plain": _spec(),
    "grouped": _spec(heads=6, key_value_heads=2),
    "one key for all": _spec(key_value_heads=1),
    "window": _spec(window=1),
    "disentangled": _spec(relative=RelativeSpec(3)),
    "buckets": _spec(relative=RelativeSpec(4, buckets=4, farthest=5)),
    "content to position": _spec(relative=RelativeSpec(3, queries=False)),
    "position to content": _spec(relative=RelativeSpec(3, keys=False)),
    "all at once": _spec(heads=4, key_value_heads=2, window=2, relative=RelativeSpec(2)),
}
"""What attentions may differ in."""


def _fill(attention: torch.nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in attention.named_parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
            if "scale" in name or "clip" in name:
                parameter.abs_().add_(0.1)


def _attention(spec: AttentionSpec | None = None, seed: int = 0, **options) -> BinaryAttention:
    attention = BinaryAttention(spec or _spec(), **options)
    _fill(attention, seed)
    with torch.no_grad():
        attention.probability_scale.mul_(0.5)
    return attention


def _qkv(spec: AttentionSpec | None = None, seed: int = 1) -> list[torch.Tensor]:
    spec, generator = spec or _spec(), torch.Generator().manual_seed(seed)
    return [
        torch.randn(BATCH, heads, LENGTH, spec.head_dim, generator=generator)
        for heads in (spec.heads, spec.key_value_heads, spec.key_value_heads)
    ]


def _bias(heads: int) -> torch.Tensor:
    return torch.randn(heads, LENGTH, LENGTH, generator=torch.Generator().manual_seed(6))


def _code(value: float, clip: float, bits: int) -> int:
    if bits == 1:
        return 1 if value >= 0 else -1
    odd = range(-(2**bits - 1), 2**bits, 2)
    return min(odd, key=lambda code: abs(value / clip - code))


def _row(spec: RelativeSpec, query: int, key: int) -> int:
    """Of the position tables: distances of more than half of the buckets share logarithmic ones."""
    distance = query - key
    middle = spec.buckets // 2
    if spec.buckets and abs(distance) > middle:
        share = math.log(abs(distance) / middle) / math.log((spec.farthest - 1) / middle)
        bucket = middle + math.ceil(share * (middle - 1))
        distance = bucket if distance > 0 else -bucket
    return min(max(distance + spec.span, 0), 2 * spec.span - 1)


def _position_terms(spec, value, h, i, j, qi, kj) -> dict[str, float]:
    """Products of a query and a key with the row of their distance, one number at a time."""
    if spec.relative is None:
        return {}
    row = _row(spec.relative, i, j)
    both = {"position_key": qi, "position_query": kj}
    return {
        name: sum(x * y for x, y in zip(content, value[name][h, row], strict=True))
        for name, content in both.items()
        if name in value
    }


def _naive(attention: BinaryAttention, qkv, allowed: np.ndarray, bias=None) -> np.ndarray:
    """METHOD, section 2, one number at a time; `allowed` (batch, queries, keys)."""
    spec = attention.spec
    value = {name: p.detach().double().numpy() for name, p in attention.state_dict().items()}
    for name in value.keys() & {"position_key", "position_query"}:
        value[name] = np.where(value[name] >= 0, 1, -1)
    q, k, v = (x.double().numpy() for x in qkv)
    largest = 2**attention.bits - 1
    out = np.zeros((BATCH, spec.heads, LENGTH, DIM))

    def codes(x, name, h, bits):
        shift, clip = value[f"{name}_shift"][h, 0], value[f"{name}_clip"][h, 0, 0]
        return [_code(x[d] - shift[d], clip, bits) for d in range(DIM)]

    for b, h, i in itertools.product(range(BATCH), range(spec.heads), range(LENGTH)):
        of_keys = h * spec.key_value_heads // spec.heads
        qi = codes(q[b, h, i], "query", h, attention.bits)
        scores = {}
        for j in np.flatnonzero(allowed[b, i]):
            if spec.window is not None and abs(i - j) > spec.window:
                continue
            kj = codes(k[b, of_keys, j], "key", of_keys, attention.key_value_bits)
            integer = sum(x * y for x, y in zip(qi, kj, strict=True))
            scores[j] = value["score_scale"][h, 0, 0] * integer
            for name, term in _position_terms(spec, value, h, i, j, qi, kj).items():
                scores[j] += value[f"{name}_scale"][h, 0, 0] * term
            if bias is not None:
                scores[j] += bias[h, i, j].item()
        total = sum(math.exp(s) for s in scores.values())
        scale = value["probability_scale"][h, 0, 0]
        shift = 0.0
        if "probability_shift" in value:
            shift = value["probability_shift"][h, 0, 0]
        for j, score in scores.items():
            p = max(math.exp(score) / total - shift, 0.0)
            weight = scale * min(math.floor(p / scale + 0.5), largest)
            vj = codes(v[b, of_keys, j], "value", of_keys, attention.key_value_bits)
            out[b, h, i] += weight * np.array(vj) * value["value_scale"][h, 0]
        out[b, h, i] += value["context_bias"][h, 0]
    return out


def _naive_full(attention: FullAttention, qkv, allowed: np.ndarray, bias=None) -> np.ndarray:
    """Softmax attention, one number at a time; no number where there is nothing to attend to."""
    spec = attention.spec
    value = {name: p.detach().double().numpy() for name, p in attention.state_dict().items()}
    q, k, v = (x.double().numpy() for x in qkv)
    out = np.zeros((BATCH, spec.heads, LENGTH, DIM))
    for b, h, i in itertools.product(range(BATCH), range(spec.heads), range(LENGTH)):
        of_keys = h * spec.key_value_heads // spec.heads
        weights = {}
        for j in np.flatnonzero(allowed[b, i]):
            if spec.window is not None and abs(i - j) > spec.window:
                continue
            qi, kj = q[b, h, i], k[b, of_keys, j]
            terms = _position_terms(spec, value, h, i, j, qi, kj)
            score = (qi @ kj + sum(terms.values())) * spec.score_scale
            weights[j] = math.exp(score + (0.0 if bias is None else bias[h, i, j].item()))
        if not weights:
            out[b, h, i] = np.nan
        for j, weight in weights.items():
            out[b, h, i] += weight / sum(weights.values()) * v[b, of_keys, j]
    return out


def _some_allowed() -> tuple[np.ndarray, torch.Tensor]:
    """Two texts, of which the first is shorter: by pairs, and as a mask."""
    allowed = np.ones((BATCH, LENGTH, LENGTH), dtype=bool)
    allowed[0, :, 3:] = False
    return allowed, torch.from_numpy(allowed)[:, None]


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_full_precision_equals_the_naive_loop(spec, masked, biased):
    attention, qkv = FullAttention(spec), _qkv(spec)
    _fill(attention)
    allowed, mask = _some_allowed() if masked else (np.ones((BATCH, LENGTH, LENGTH)), None)
    bias = _bias(spec.heads) if biased else None
    expected = _naive_full(attention, qkv, allowed, bias)
    got = attention(*qkv, mask, bias).detach().double().numpy()
    assert np.isfinite(got).all()
    # Of padding with a window, that may attend to nothing, no number is ever read.
    attended = ~np.isnan(expected)
    assert attended[:, :, :3].all()
    np.testing.assert_allclose(got[attended], expected[attended], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("masked", [False, True])
def test_every_kind_equals_the_naive_loop(spec, masked):
    attention, qkv = _attention(spec, bits=2, key_value_bits=2), _qkv(spec)
    allowed, mask = _some_allowed() if masked else (np.ones((BATCH, LENGTH, LENGTH)), None)
    bias = _bias(spec.heads)
    expected = _naive(attention, qkv, allowed, bias)
    got = attention(*qkv, mask, bias).detach().double().numpy()
    np.testing.assert_allclose(got, expected, atol=2e-5, rtol=1e-5)
    assert not np.allclose(attention(*qkv, mask).detach().numpy(), expected, atol=1e-3)


@pytest.mark.parametrize(("bits", "key_value_bits"), [(1, 1), (2, 1), (1, 2), (4, 4), (8, 8)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("elastic", [False, True])
def test_equals_the_naive_loop(bits, key_value_bits, masked, elastic):
    attention = _attention(bits=bits, key_value_bits=key_value_bits, elastic=elastic)
    qkv = _qkv()
    allowed, mask = _some_allowed() if masked else (np.ones((BATCH, LENGTH, LENGTH)), None)
    expected = _naive(attention, qkv, allowed)
    got = attention(*qkv, mask).detach().double().numpy()
    np.testing.assert_allclose(got, expected, atol=2e-5, rtol=1e-5)
    codes = attention.probability_codes(attention.scores(*qkv[:2]), mask)
    assert torch.equal(codes.round(), codes)
    assert len(codes.unique()) > 1  # both sets are in use, so the test says something


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_accumulate_scores_are_integers_of_bits(bits):
    attention, (q, k, _) = _attention(bits=bits), _qkv()
    found = attention.accumulate_scores(q, k)
    assert found.keys() == {"score_scale"}
    acc = found["score_scale"]
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
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_padding_never_leaks(spec, kind, bits):
    attention = _attention(spec, bits=bits, score_rank=2, context_rank=2)
    q, k, v = _qkv(spec)
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
    plain = BinaryAttention(_spec())
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
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_training_computes_what_evaluation_does(spec, bits):
    """Scales on the smaller side, or integers first: the same but for rounding."""
    attention, qkv = _attention(spec, bits=bits, score_rank=2, context_rank=2), _qkv(spec)
    torch.testing.assert_close(attention.train()(*qkv), attention.eval()(*qkv))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_parameter_gets_a_gradient(spec):
    attention = _attention(spec, score_rank=1, context_rank=1, elastic=True, clip=5.0)
    attention(*_qkv(spec)).square().sum().backward()
    for name, parameter in attention.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_starts_as_scaled_dot_product_scores():
    """Before calibration: estimators at zero and the usual 1 / sqrt(head size)."""
    attention = BinaryAttention(_spec(head_dim=16), score_rank=2)
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
    full, (q, k, v) = _attention(score_rank=2, context_rank=3, from_hidden=True), _qkv()
    plain = BinaryAttention(_spec())
    plain.load_state_dict({n: p for n, p in full.state_dict().items() if "estimator" not in n})
    x = torch.randn(BATCH, LENGTH, WIDTH, generator=torch.Generator().manual_seed(4))
    shared = full.shared_estimator
    qm, qp = x @ shared.query_main, x @ shared.query_residual
    km, kp = x @ shared.key_main, x @ shared.key_residual
    residual = qm @ kp.mT + qp @ km.mT + qp @ kp.mT
    difference = full.scores(q, k, hidden=x) - plain.scores(q, k)
    torch.testing.assert_close(difference, residual.unsqueeze(1).expand_as(difference))
    p = plain.probability_codes(plain.scores(q, k), None)
    residual = (p * plain.probability_step) @ (x @ shared.value_down @ shared.value_up).unsqueeze(1)
    torch.testing.assert_close(full.context(p, v, x) - plain.context(p, v), residual)


@pytest.mark.parametrize("at_random", [True, False])
def test_a_shared_estimator_can_be_learnt_from_its_start(at_random):
    torch.manual_seed(0)
    attention, (q, k, v) = _attention(score_rank=1, context_rank=1, from_hidden=True), _qkv()
    with torch.no_grad():
        for parameter in attention.shared_estimator.parameters():
            parameter.zero_()
    attention.shared_estimator.start(at_random=at_random)
    x = torch.randn(BATCH, LENGTH, WIDTH)
    alone = BinaryAttention(_spec())
    alone.load_state_dict({n: p for n, p in attention.state_dict().items() if "estimator" not in n})
    plain = alone.scores(q, k)
    assert (attention.scores(q, k, hidden=x) == plain).all() != at_random
    attention(q, k, v, hidden=x).square().sum().backward()
    grads = {n: p.grad.abs().sum() > 0 for n, p in attention.shared_estimator.named_parameters()}
    assert all(grads[name] for name in ("query_residual", "key_residual", "value_up"))


@pytest.mark.parametrize(("score_rank", "context_rank"), [(1, 0), (0, 1)])
def test_a_shared_estimator_without_hidden_states_is_refused(score_rank, context_rank):
    attention = _attention(score_rank=score_rank, context_rank=context_rank, from_hidden=True)
    with pytest.raises(ValueError, match="pass `hidden`"):
        attention(*_qkv())


def test_tables_of_positions_count_by_their_signs_alone():
    attention, qkv = _attention(SPECS["disentangled"]), _qkv()
    before = attention(*qkv)
    with torch.no_grad():
        attention.position_key.mul_(3.0)
        attention.position_query.mul_(0.5)
    assert torch.equal(attention(*qkv), before)
    found = attention.accumulate_scores(*qkv[:2])
    assert found.keys() == {"score_scale", "position_key_scale", "position_query_scale"}
    assert all(torch.equal(integers.round(), integers) for integers in found.values())
    # What the integers and their scales say is all there is.
    total = sum(integers * getattr(attention, name) for name, integers in found.items())
    torch.testing.assert_close(attention.scores(*qkv[:2]), total)


class TestReadMask:
    """Every form of a mask becomes one that scores take."""

    query = torch.zeros(2, 1, 4, 3)
    real = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    near = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]).bool()

    @pytest.mark.parametrize("window", [None, 3, 9])
    def test_without_a_window_or_with_one_that_all_lies_in(self, window):
        assert read_mask(None, self.query, window) is None
        for mask in (self.real, self.real.bool(), self.real.float()):
            read = read_mask(mask, self.query, window)
            assert torch.equal(read, self.real.bool()[:, None, None])
        additive = torch.randn(2, 1, 1, 4)
        assert read_mask(additive, self.query, window) is additive

    def test_a_window_is_a_mask_of_its_own(self):
        assert torch.equal(read_mask(None, self.query, 1), self.near)

    def test_a_window_narrows_a_mask(self):
        read = read_mask(self.real, self.query, 1)
        assert torch.equal(read, self.real.bool()[:, None, None] & self.near)
        boolean = torch.ones(2, 1, 4, 4, dtype=torch.bool).tril()
        assert torch.equal(read_mask(boolean, self.query, 1), boolean & self.near)

    def test_a_window_narrows_what_is_added(self):
        additive = torch.randn(2, 1, 1, 4)
        read = read_mask(additive, self.query, 1)
        assert read.shape == (2, 1, 4, 4)
        assert torch.equal(read[..., self.near], additive.expand(2, 1, 4, 4)[..., self.near])
        assert (read[..., ~self.near] == NEVER).all()
