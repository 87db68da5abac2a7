"""Closed forms: weight scales, codes and low-rank estimators that minimise the output error.

All of it follows from second moments (`fitting.moments`), so no function here sees data.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bipft_compress.fitting.moments import Covariances, exact
from bipft_compress.nn import signed_codes
from bipft_compress.nn.estimator import START_SPREAD
from bipft_compress.nn.quantizers import nearest_codes
from bipft_compress.recipe import Initialisation

DESCENT_BLOCK = 64
"""Inputs whose codes are set before all others learn of it: a matrix product instead of 64 vectors.
"""

_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class LinearFit:
    """``y ~ scale * (codes b) + up (down x) + bias``."""

    codes: Tensor
    step: Tensor
    """What a code of 1 stands for in the nearest codes of the weights, (out, 1)."""
    scale: Tensor
    bias: Tensor
    up: Tensor
    down: Tensor
    error: float | None = None
    """Remaining squared error over the variance of y, on the tokens of the moments."""


def reduced_rank_regression(
    yx: Tensor, xx: Tensor, rank: int, damping: float
) -> tuple[Tensor, Tensor]:
    """The rank-r linear map of x that predicts y with the least squared error.

    With ``M = D C^-1`` the best map of any rank, project it onto the leading left singular vectors
    of ``M C^(1/2)`` (Izenman 1975). Unlike an SVD of the weights' residual this is optimal in the
    output.

    Args:
        yx: D = cov(y, x), (out, in).
        xx: C = cov(x, x), (in, in).
        rank: 0 gives empty factors.
        damping: ridge, relative to the mean variance of x.

    Returns:
        ``up`` (out, rank) and ``down`` (rank, in); their product is the map. The singular values
        are shared evenly between the two, so that both train at the same speed.
    """
    if rank == 0:
        return yx.new_zeros(len(yx), 0), yx.new_zeros(0, len(xx))
    lower = _damped_root(xx, damping)
    # M C^(1/2) for C = L L^T is D L^-T; any square root gives the same left singular vectors.
    whitened = torch.linalg.solve_triangular(lower, yx.T, upper=False).T
    left, values, right = _leading_singular_vectors(whitened, rank)
    root = values.sqrt()
    down = torch.linalg.solve_triangular(lower.T, right.T, upper=True).T
    return left * root, down * root.unsqueeze(1)


def ridge_regression(yx: Tensor, xx: Tensor, damping: float) -> Tensor:
    """The linear map of any rank, (out, in); else as `reduced_rank_regression`, in less time."""
    matrix: Tensor = torch.cholesky_solve(yx.T, _damped_root(xx, damping)).T
    return matrix


def _damped_root(xx: Tensor, damping: float) -> Tensor:
    """Lower triangular L with L L^T = C + ridge: as little more as rounding makes necessary."""
    eye, ridge = torch.eye(len(xx)).to(xx), damping * xx.diagonal().mean() + _TINY
    while True:
        lower, failed = torch.linalg.cholesky_ex(xx + ridge * eye)
        if not failed or not torch.isfinite(ridge):
            root: Tensor = lower
            return root
        ridge = 10 * ridge


def _leading_singular_vectors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Left (m, rank), values (rank,), right (rank, n), from the smaller Gram matrix.

    In fp64 this is exact enough for the leading ones and many times faster than a full SVD.
    """
    if matrix.shape[0] > matrix.shape[1]:
        left, values, right = _leading_singular_vectors(matrix.T, rank)
        return right.T, values, left.T
    _, vectors = torch.linalg.eigh(matrix @ matrix.T)
    left = vectors[:, -rank:].flip(1)
    projected = left.T @ matrix
    values = projected.norm(dim=1)
    return left, values, projected / values.clamp_min(1e-30).unsqueeze(1)


def least_squares_scale(codes: Tensor, target: Tensor, bb: Tensor) -> Tensor:
    """The scale of each output row that fits ``scale * (codes b)`` to a target.

    Args:
        codes: of the weights, (out, in).
        target: cov(target, b), (out, in).
        bb: cov(b, b), (in, in).

    Returns:
        (out,). May be negative only if the codes oppose the target.
    """
    variance = ((codes @ bb) * codes).sum(1).clamp_min(_TINY)
    return (target * codes).sum(1) / variance


def descend_codes(
    codes: Tensor, scale: Tensor, target: Tensor, bb: Tensor, sweeps: int, bits: int = 1
) -> Tensor:
    """Set the weights' codes, one input at a time, to those of the least squared output error.

    Coordinate descent on ``scale^2 w^T B w - 2 scale w^T t`` per row, all rows at once: each
    sweep lowers the error or leaves it.

    Args:
        codes: odd integers, (out, in).
        scale: (out,).
        target: cov(target, b), (out, in).
        bb: B = cov(b, b), (in, in).
        sweeps: passes over the inputs.
        bits: of a weight.

    Returns:
        New codes, (out, in).
    """
    # Single precision: what moves is a code, and the updates are all memory traffic.
    w, bb, target, scale = codes.float(), bb.float(), target.float(), scale.float()
    product = w @ bb
    for _ in range(sweeps):
        before = w.clone()
        for start in range(0, w.shape[1], DESCENT_BLOCK):
            block = slice(start, start + DESCENT_BLOCK)
            change = _descend_block(w, scale, target, bb, product, block, bits)
            # The rest of the product is only read behind the block: one matrix product serves.
            product += change @ bb[block]
        if torch.equal(w, before):
            break
    return w.to(codes.dtype)


def _descend_block(
    w: Tensor,
    scale: Tensor,
    target: Tensor,
    bb: Tensor,
    product: Tensor,
    block: slice,
    bits: int,
) -> Tensor:
    """Set the codes of some neighbouring inputs in `w`, one after the other.

    Args:
        w: codes, (out, in), changed in place.
        scale: (out,).
        target: (out, in).
        bb: (in, in).
        product: ``w bb`` from before the block, (out, in).
        block: of the inputs.
        bits: of a weight.

    Returns:
        What the codes changed by, (out, block).
    """
    old, within, slopes = w[:, block].clone(), bb[block, block], product[:, block].clone()
    goal, diagonal = target[:, block], within.diagonal()
    for k in range(old.shape[1]):
        # Slope of half the error without w_k's own part, which is a parabola around its optimum.
        slope = scale * (scale * (slopes[:, k] - old[:, k] * diagonal[k]) - goal[:, k])
        curvature = scale.square() * diagonal[k]
        best = signed_codes(-slope / curvature.clamp_min(_TINY), 1.0, bits)
        new = torch.where(slope == 0, old[:, k], best)
        slopes[:, k:] += torch.outer(new - old[:, k], within[k, k:])
        w[:, block.start + k] = new
    return w[:, block] - old


@dataclass
class _State:
    """A linear layer half fitted: what an estimator's start may look at."""

    weight: Tensor
    moments: Covariances | None
    activation_scale: float
    codes: Tensor
    scale: Tensor

    def regression(self, rank: int, damping: float) -> tuple[Tensor, Tensor]:
        m = self.moments
        assert m is not None
        residual = m.yx - self.scale.unsqueeze(1) * (self.codes @ m.bx)
        return reduced_rank_regression(residual, m.xx, rank, damping)

    def weight_svd(self, rank: int, damping: float) -> tuple[Tensor, Tensor]:
        # What the codes leave of the weights, blind to the data (as in LoftQ, Li et al. 2023).
        binary = self.codes * (self.scale / self.activation_scale).unsqueeze(1)
        left, values, right = _leading_singular_vectors(self.weight - binary, rank)
        return left * values.sqrt(), right * values.sqrt().unsqueeze(1)

    def random(self, rank: int, damping: float) -> tuple[Tensor, Tensor]:
        out, width = self.weight.shape
        # Drawn on the CPU, so that every device starts from the same numbers.
        up, down = torch.randn(out, rank) * START_SPREAD, torch.randn(rank, width) * START_SPREAD
        return up.to(self.scale), down.to(self.scale)

    def zero(self, rank: int, damping: float) -> tuple[Tensor, Tensor]:
        # One factor must differ from zero, or neither would ever get a gradient.
        return self.scale.new_zeros(len(self.weight), rank), self.random(rank, damping)[1]


_STARTS = {
    "regression": _State.regression,
    "weight-svd": _State.weight_svd,
    "random": _State.random,
    "zero": _State.zero,
}


def fit_linear(
    weight: Tensor,
    moments: Covariances,
    *,
    rank: int,
    activation_scale: float,
    choices: Initialisation,
    bits: int = 1,
) -> LinearFit:
    """Fit scales, codes, estimator and bias of a binary linear layer to its wanted output.

    Args:
        weight: full-precision weight, (out, in); its nearest codes are the start.
        moments: of the student's own input and the teacher's output for the same tokens.
        rank: of the estimator.
        activation_scale: what a code of 1 stands for, for starts that look at weights alone.
        choices: the recipe's `initialisation` section.
        bits: of a weight.
    """
    m, weight = moments, weight.to(moments.yx)
    codes, step = nearest_codes(weight, bits)
    scale = least_squares_scale(codes, m.yb, m.bb)
    state = _State(weight, m, activation_scale, codes, scale)
    estimate = _STARTS[choices.method]
    up, down = estimate(state, rank, choices.damping)
    for _ in range(choices.refits):
        target = m.yb - up @ (down @ m.bx.T)
        state.codes = descend_codes(
            state.codes, state.scale, target, m.bb, choices.sign_sweeps, bits
        )
        state.scale = least_squares_scale(state.codes, target, m.bb)
        if choices.method in ("regression", "weight-svd"):
            up, down = estimate(state, rank, choices.damping)
    codes, scale = state.codes, state.scale
    bias = m.mean_y - scale * (codes @ m.mean_b) - up @ (down @ m.mean_x)
    return LinearFit(codes, step, scale, bias, up, down, _error(m, codes, scale, up, down))


def fit_by_magnitude(
    weight: Tensor, bias: Tensor, *, rank: int, activation_scale: float, method: str, bits: int = 1
) -> LinearFit:
    """The papers' start: the nearest codes of each row and their scale, whatever the data.

    At one bit these are the sign and the mean magnitude.

    Args:
        weight: full-precision weight, (out, in).
        bias: of the layer, (out,); stays as it is.
        rank: of the estimator.
        activation_scale: what a code of 1 stands for.
        method: where the estimator starts; not ``regression``, which is of data.
        bits: of a weight.
    """
    weight = exact(weight)
    codes, step = nearest_codes(weight, bits)
    scale = step.squeeze(1) * activation_scale
    state = _State(weight, None, activation_scale, codes, scale)
    up, down = _STARTS[method](state, rank, 0.0)
    return LinearFit(codes, step, scale, bias, up, down)


def _error(m: Covariances, codes: Tensor, scale: Tensor, up: Tensor, down: Tensor) -> float:
    low = up @ down
    binary = scale.unsqueeze(1) * codes
    explained = 2 * (m.yb * binary).sum() + 2 * (m.yx * low).sum()
    squares = ((binary @ m.bb) * binary).sum() + ((low @ m.xx) * low).sum()
    cross = 2 * ((binary @ m.bx) * low).sum()
    return float((m.yy.sum() - explained + squares + cross) / m.yy.sum())
