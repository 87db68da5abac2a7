"""Closed forms against brute force on the data they were gathered from."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from bipft_compress.fitting import moments as module
from bipft_compress.fitting.moments import Covariances, LinearMoments
from bipft_compress.fitting.regression import (
    descend_codes,
    fit_by_magnitude,
    fit_linear,
    least_squares_scale,
    reduced_rank_regression,
)
from bipft_compress.nn.quantizers import nearest_codes
from bipft_compress.recipe import Initialisation

TINY = 1e-12


def _data(tokens: int = 400, width: int = 9, out: int = 7, seed: int = 0):
    """Correlated inputs with a mean, outputs that depend on them, and noise."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = normal(tokens, width) @ normal(width, width) + 2 * normal(width)
    weight = normal(out, width)
    y = x @ weight.T + 0.7 * normal(tokens, out) + normal(out)
    return x, torch.where(x >= x.mean(0), 1.0, -1.0).double(), y, weight


def _moments(x, b, y) -> Covariances:
    moments = LinearMoments(x.shape[1], y.shape[1])
    moments.update(x, b, y)
    return moments.centred()


def _centred(*tensors):
    return tuple((t - t.mean(0)).numpy() for t in tensors)


def _fit(weight, moments, *, rank, refits, sweeps, damping, scale=1.0, **choices):
    chosen = Initialisation(refits=refits, sign_sweeps=sweeps, damping=damping, **choices)
    return fit_linear(weight, moments, rank=rank, activation_scale=scale, choices=chosen)


@pytest.mark.parametrize(("width", "out"), [(9, 7), (6, 11)])
def test_full_rank_is_least_squares(width, out):
    x, b, y, _ = _data(width=width, out=out)
    m = _moments(x, b, y)
    up, down = reduced_rank_regression(m.yx, m.xx, min(width, out), TINY)
    xc, yc = _centred(x, y)
    solution = np.linalg.lstsq(xc, yc, rcond=None)[0].T
    np.testing.assert_allclose((up @ down).numpy(), solution, atol=1e-6)


@pytest.mark.parametrize(("width", "out"), [(9, 7), (6, 11)])
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_reduced_rank_is_eckart_young_on_the_fitted_values(width, out, rank):
    x, b, y, _ = _data(width=width, out=out)
    m = _moments(x, b, y)
    up, down = reduced_rank_regression(m.yx, m.xx, rank, TINY)
    assert up.shape == (out, rank)
    assert down.shape == (rank, width)
    xc, yc = _centred(x, y)
    fitted = xc @ np.linalg.lstsq(xc, yc, rcond=None)[0]
    left, values, right = np.linalg.svd(fitted, full_matrices=False)
    best = (left[:, :rank] * values[:rank]) @ right[:rank]
    np.testing.assert_allclose(xc @ (up @ down).numpy().T, best, atol=1e-6)
    # Both factors carry the root of the singular values.
    root = np.sqrt(values[:rank] / np.sqrt(len(x)))
    np.testing.assert_allclose(np.linalg.norm(up.numpy(), axis=0), root, rtol=1e-6)


def test_no_map_of_the_same_rank_is_better():
    """Against alternating least squares from random starts, and an SVD of the best map."""
    x, b, y, _ = _data()
    m = _moments(x, b, y)
    xc, yc = _centred(x, y)
    up, down = (part.numpy() for part in reduced_rank_regression(m.yx, m.xx, 2, TINY))

    def error(u, v):
        return np.square(yc - xc @ v.T @ u.T).sum()

    found = error(up, down)
    rng = np.random.default_rng(0)
    for _ in range(5):
        v = rng.normal(size=(2, 9))
        for _ in range(200):
            u = np.linalg.lstsq(xc @ v.T, yc, rcond=None)[0].T
            v = np.linalg.lstsq(xc, yc @ np.linalg.pinv(u).T, rcond=None)[0].T
        assert found <= error(u, v) * (1 + 1e-9)
    left, values, right = np.linalg.svd(np.linalg.lstsq(xc, yc, rcond=None)[0].T)
    assert found < 0.999 * error(left[:, :2] * values[:2], right[:2])


def test_rank_zero_and_damping():
    x, b, y, _ = _data()
    m = _moments(x, b, y)
    up, down = reduced_rank_regression(m.yx, m.xx, 0, TINY)
    assert (up @ down).shape == (7, 9)
    assert (up @ down).abs().max() == 0
    # Damping is a ridge of that share of the mean variance.
    up, down = reduced_rank_regression(m.yx, m.xx, 7, 0.5)
    ridge = m.xx + 0.5 * m.xx.diagonal().mean() * torch.eye(9, dtype=torch.float64)
    torch.testing.assert_close(up @ down, m.yx @ torch.linalg.inv(ridge))


def test_a_constant_input_is_survived():
    """A dead channel makes the covariance singular."""
    x, _, y, weight = _data()
    x[:, 3] = 5.0
    m = _moments(x, torch.where(x >= 0, 1.0, -1.0).double(), y)
    fit = _fit(weight, m, rank=2, refits=2, sweeps=1, damping=1e-3)
    for name in ("scale", "bias", "up", "down"):
        assert torch.isfinite(getattr(fit, name)).all(), name


def test_scale_is_least_squares():
    x, b, y, weight = _data()
    m = _moments(x, b, y)
    signs = torch.where(weight >= 0, 1.0, -1.0).double()
    scale = least_squares_scale(signs, m.yb, m.bb)
    bc, yc = _centred(b, y)
    for row in range(len(weight)):
        binary = bc @ signs[row].numpy()
        expected = np.linalg.lstsq(binary[:, None], yc[:, row], rcond=None)[0][0]
        assert scale[row].item() == pytest.approx(expected, rel=1e-9)


def _row_error(w, c, target, bb):
    return c * c * (w @ bb * w).sum(-1) - 2 * c * (target * w).sum(-1)


@pytest.mark.parametrize("width", [2, 5, 10])
@pytest.mark.parametrize("negative", [False, True])
def test_sign_descent_ends_where_no_flip_helps(width, negative):
    x, b, y, _ = _data(width=width, out=20, seed=width)
    m = _moments(x, b, y)
    generator = torch.Generator().manual_seed(1)
    signs = torch.where(torch.rand(20, width, generator=generator) < 0.5, 1.0, -1.0).double()
    scale = torch.rand(20, generator=generator).double() + 0.1
    scale = -scale if negative else scale
    before = signs.clone()
    error = _row_error(signs, scale, m.yb, m.bb)
    start = error
    for sweeps in (1, 2, 3, 50):
        descended = descend_codes(signs, scale, m.yb, m.bb, sweeps)
        lower = _row_error(descended, scale, m.yb, m.bb)
        assert (lower <= error + 1e-9).all()
        error = lower
    assert torch.equal(signs, before)  # the argument is left alone
    assert (error < start - 1e-6).any()
    assert set(descended.unique().tolist()) <= {-1.0, 1.0}
    for k in range(width):
        flipped = descended.clone()
        flipped[:, k] *= -1
        assert (_row_error(flipped, scale, m.yb, m.bb) >= error - 1e-9).all()


def test_sign_descent_is_near_the_best_of_all_signs():
    x, b, y, weight = _data(width=8, out=12)
    m = _moments(x, b, y)
    signs = torch.where(weight >= 0, 1.0, -1.0).double()
    scale = least_squares_scale(signs, m.yb, m.bb)
    descended = descend_codes(signs, scale, m.yb, m.bb, 50)
    every = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=8))).double()
    best = torch.stack([_row_error(every, scale[r], m.yb[r], m.bb).amin() for r in range(12)])
    ours = _row_error(descended, scale, m.yb, m.bb)
    assert (ours >= best - 1e-9).all()
    assert (ours - best).abs().lt(1e-9).sum() >= 6  # most rows find the optimum here


@pytest.mark.parametrize("bits", [2, 3])
def test_descent_over_several_bits_ends_where_no_code_helps(bits):
    x, b, y, weight = _data(width=6, out=15)
    m = _moments(x, b, y)
    codes = nearest_codes(weight, bits)[0]
    scale = least_squares_scale(codes, m.yb, m.bb)
    start = _row_error(codes, scale, m.yb, m.bb)
    descended = descend_codes(codes, scale, m.yb, m.bb, 50, bits)
    error = _row_error(descended, scale, m.yb, m.bb)
    assert (error <= start + 1e-9).all()
    assert (error < start - 1e-6).any()
    levels = [float(level) for level in range(-(2**bits - 1), 2**bits, 2)]
    assert set(descended.unique().tolist()) <= set(levels)
    for k, level in itertools.product(range(6), levels):
        other = descended.clone()
        other[:, k] = level
        assert (_row_error(other, scale, m.yb, m.bb) >= error - 1e-6).all()


def test_more_bits_of_weights_leave_less_error():
    x, b, y, weight = _data(width=9, out=40, tokens=2000)
    m = _moments(x, b, y)
    errors = [
        fit_linear(
            weight,
            m,
            rank=0,
            activation_scale=1.0,
            choices=Initialisation(sign_sweeps=8),
            bits=bits,
        ).error
        for bits in (1, 2, 3, 4)
    ]
    assert errors == sorted(errors, reverse=True)
    # Of what the codes of x allow at all, four bits of weights leave next to nothing.
    xc, yc = _centred(b, y)
    best = yc - xc @ np.linalg.lstsq(xc, yc, rcond=None)[0]
    assert errors[-1] == pytest.approx((best**2).sum() / (yc**2).sum(), rel=0.05)


def _direct_error(fit, x, b, y) -> float:
    prediction = fit.scale * (b @ fit.codes.T) + x @ fit.down.T @ fit.up.T + fit.bias
    return float((y - prediction).square().sum() / (y - y.mean(0)).square().sum())


@pytest.mark.parametrize("rank", [0, 1, 3])
@pytest.mark.parametrize("sweeps", [0, 2])
def test_reported_error_is_the_error_on_the_data(rank, sweeps):
    x, b, y, weight = _data()
    fit = _fit(weight, _moments(x, b, y), rank=rank, refits=2, sweeps=sweeps, damping=1e-3)
    assert fit.error == pytest.approx(_direct_error(fit, x, b, y), rel=1e-9)
    assert 0 < fit.error < 1
    # The bias takes the mean of what is left.
    prediction = fit.scale * (b @ fit.codes.T) + x @ fit.down.T @ fit.up.T + fit.bias
    torch.testing.assert_close(prediction.mean(0), y.mean(0))


def test_more_freedom_never_hurts():
    x, b, y, weight = _data()
    m = _moments(x, b, y)

    def error(**options):
        chosen = {"rank": 1, "refits": 2, "sweeps": 0, "damping": TINY} | options
        return _fit(weight, m, **chosen).error

    by_rank = [error(rank=rank) for rank in (0, 1, 2, 4, 7)]
    assert by_rank == sorted(by_rank, reverse=True)
    assert by_rank[2] < 0.9 * by_rank[0]
    by_refits = [error(refits=refits) for refits in (0, 1, 2, 5, 20)]
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(by_refits))
    by_sweeps = [error(rank=0, sweeps=sweeps, refits=1) for sweeps in (0, 1, 5)]
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(by_sweeps))


def test_signs_start_from_the_weights():
    x, b, y, weight = _data()
    weight[0, 0], weight[1, 1] = 0.0, -0.0
    fit = _fit(weight, _moments(x, b, y), rank=0, refits=2, sweeps=0, damping=1e-3)
    assert torch.equal(fit.codes, torch.where(weight >= 0, 1.0, -1.0).double())
    assert fit.codes[0, 0] == fit.codes[1, 1] == 1


def test_moments_in_pieces_are_those_at_once(monkeypatch):
    x, b, y, _ = _data()
    monkeypatch.setattr(module, "_CHUNK", 64)
    pieces = LinearMoments(9, 7)
    for start, stop in itertools.pairwise((0, 1, 70, 71, 75, 300, 400)):
        pieces.update(x[start:stop], b[start:stop], y[start:stop])
    got, at_once = pieces.centred(), _moments(x, b, y)
    for name in ("mean_x", "mean_b", "mean_y", "xx", "bb", "bx", "yx", "yb", "yy"):
        torch.testing.assert_close(getattr(got, name), getattr(at_once, name))
    together = np.cov(np.concatenate([x, b, y], 1).T, bias=True)
    np.testing.assert_allclose(got.bx, together[9:18, :9], atol=1e-9)
    np.testing.assert_allclose(got.yb, together[18:, 9:18], atol=1e-9)
    np.testing.assert_allclose(got.yy, np.diag(together)[18:], atol=1e-9)


def test_layers_that_share_an_input_fit_as_if_alone():
    x, b, y, weight = _data()
    shared = _moments(x, b, y)
    options = {"rank": 2, "refits": 2, "sweeps": 1, "damping": 1e-3}
    part = _fit(weight[3:], shared.outputs(slice(3, 7)), **options)
    alone = _fit(weight[3:], _moments(x, b, y[:, 3:]), **options)
    assert torch.equal(part.codes, alone.codes)
    torch.testing.assert_close(part.scale, alone.scale)
    torch.testing.assert_close(part.up @ part.down, alone.up @ alone.down)
    assert part.error == pytest.approx(alone.error)


def _fit_plain(weight, moments, **choices):
    return _fit(weight, moments, rank=2, refits=0, sweeps=0, damping=1e-3, **choices)


def test_weight_svd_is_the_best_low_rank_copy_of_what_the_signs_leave():
    x, b, y, weight = _data()
    fit = _fit_plain(weight, _moments(x, b, y), method="weight-svd", scale=0.5)
    signs = torch.where(weight >= 0, 1.0, -1.0).double()
    left = weight - signs * (fit.scale / 0.5).unsqueeze(1)
    missed = torch.linalg.matrix_norm(left - fit.up @ fit.down).square()
    values = torch.linalg.svdvals(left)
    torch.testing.assert_close(missed, values[2:].square().sum())


def test_zero_adds_nothing_yet_can_learn():
    x, b, y, weight = _data()
    fit = _fit_plain(weight, _moments(x, b, y), method="zero")
    assert (fit.up @ fit.down).abs().max() == 0
    assert fit.down.abs().min() > 0


def test_random_is_drawn_once_and_follows_the_seed():
    x, b, y, weight = _data()
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(_fit_plain(weight, _moments(x, b, y), method="random").up)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_a_start_by_magnitude_is_the_papers():
    _, _, _, weight = _data()
    bias = torch.arange(len(weight)).float()
    fit = fit_by_magnitude(weight, bias, rank=2, activation_scale=0.5, method="zero")
    torch.testing.assert_close(fit.scale, 0.5 * weight.abs().mean(1).double())
    assert torch.equal(fit.codes, torch.where(weight >= 0, 1.0, -1.0).double())
    assert torch.equal(fit.bias, bias)
    assert not (fit.up @ fit.down).any()


def test_regression_beats_the_other_starts():
    x, b, y, weight = _data()
    m = _moments(x, b, y)
    error = {
        method: _fit_plain(weight, m, method=method).error
        for method in ("regression", "weight-svd", "random", "zero")
    }
    assert min(error, key=error.get) == "regression"


@pytest.mark.parametrize("refits", [0, 2])
def test_without_an_estimator_the_moments_of_inputs_do_not_matter(refits):
    x, b, y, weight = _data()
    lean = LinearMoments(x.shape[1], y.shape[1], of_inputs=False)
    lean.update(x, b, y)
    assert not lean.centred().xx.any()
    options = {"rank": 0, "refits": refits, "sweeps": 1, "damping": 1e-3}
    fits = [_fit(weight, m, **options) for m in (_moments(x, b, y), lean.centred())]
    for name in ("codes", "scale", "bias"):
        assert torch.equal(getattr(fits[0], name), getattr(fits[1], name))
    assert fits[0].error == pytest.approx(fits[1].error)


def test_moments_of_very_alike_tokens_do_not_come_out_negative():
    """A mean a million times the spread, in several chunks: differences of sums would."""
    generator = torch.Generator().manual_seed(1)
    moments = LinearMoments(32, 5)
    for part in range(3):
        x = 1000 + 1e-3 * torch.randn(40, 32, generator=generator) + part * 1e-3
        moments.update(x, x.sign(), x[:, :5])
        moments._flush()
    found = moments.centred()
    assert torch.linalg.eigvalsh(found.xx).min() >= -1e-6 * found.xx.diagonal().mean()
    assert (found.yy >= 0).all()
    reduced_rank_regression(found.yx, found.xx, 3, 1e-3)
    same = LinearMoments(32, 5)
    same.update(torch.full((7, 32), 0.1), torch.ones(7, 32), torch.full((7, 5), 0.3))
    flat = same.centred()
    assert not flat.yy.any()
    up, down = reduced_rank_regression(flat.yx, flat.xx, 3, 1e-3)
    assert torch.isfinite(up @ down).all()


def test_a_covariance_that_rounding_made_indefinite_is_damped():
    xx = torch.diag(torch.tensor([1.0, 1.0, -1e-2], dtype=torch.float64))
    up, down = reduced_rank_regression(torch.eye(3).double(), xx, 2, 1e-3)
    assert torch.isfinite(up @ down).all()
