"""The error of linear layers with low-rank estimators, on text that these were not fitted to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bipft_compress.allocation.sensitivity import error_at_end

RANKS = (1, 2, 4, 8)
"""Ranks of an estimator that a linear layer may have beside none."""

_POWER_STEPS, _OVERSAMPLED = 2, 8
"""Of the randomised SVD (Halko et al. 2011, algorithm 4.4)."""


class Estimates:
    """Estimators of linear layers that read one input, for one code of it after the other.

    A regression on hundreds of inputs explains part of whatever it is fitted to. So they are fitted
    to every other token, as `fitting.regression.reduced_rank_regression` does, and errors are those
    of the rest.

    Args:
        x: the layers' input, centred, (tokens, in).
        y: what is wanted of them, side by side, (tokens, out).
        sensitivities: of each layer's outputs, (out,); see `sensitivity.sensitivities`.
        damping: ridge, relative to the mean variance of `x`.
    """

    def __init__(
        self, x: Tensor, y: Tensor, sensitivities: Sequence[Tensor], damping: float
    ) -> None:
        self._sensitivities = sensitivities
        self._widths = widths = list(map(len, sensitivities))
        self._ranks = [rank for rank in RANKS if rank <= min(x.shape[1], *widths)]
        fitted = x[::2]
        covariance = fitted.T @ fitted / len(fitted)
        ridge = damping * covariance.diagonal().mean()
        lower = torch.linalg.cholesky(covariance + ridge * torch.eye(x.shape[1]).to(x))
        # Whitened inputs: a map of these has the singular values of what it explains.
        self._z = torch.linalg.solve_triangular(lower, x.T, upper=False).T
        self._y = y - y.mean(0)
        self._zy = self._z[::2].T @ self._y[::2] / len(fitted)

    def read(self, values: Tensor) -> None:
        """Take the values of codes of the input, (tokens, in), for the `errors` that follow."""
        self._values = values - values.mean(0)
        fitted = self._values[::2]
        self._zb = self._z[::2].T @ fitted / len(fitted)

    def errors(self, weight: Tensor) -> Iterator[tuple[int, list[float]]]:
        """Errors of layers with no estimator, and with one of each rank.

        Args:
            weight: what their outputs are of the values, (out, in).

        Yields:
            A rank, 0 first, and what the error of each layer comes to: see `error_at_end`.
        """
        z, b, y = (part[1::2] for part in (self._z, self._values, self._y))
        left = (y - b @ weight.T).split(self._widths, 1)
        yield 0, [error_at_end(*pair) for pair in zip(self._sensitivities, left, strict=True)]
        explained = (self._zy - self._zb @ weight.T).split(self._widths, 1)
        factors = [_leading(part, max(self._ranks)) for part in explained]
        for rank in self._ranks:
            yield (
                rank,
                [
                    error_at_end(sensitivity, rest - (z @ down[:, :rank]) @ up[:, :rank].T)
                    for sensitivity, rest, (up, down) in zip(
                        self._sensitivities, left, factors, strict=True
                    )
                ],
            )


def _leading(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors of the best map of whitened inputs that has a rank, the leading ones first.

    Args:
        matrix: the best map of any rank, (in, out).
        rank: of the factors.

    Returns:
        (out, rank) and (in, rank): left and right factor of the map as a weight has it.
    """
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(matrix.shape[1], rank + _OVERSAMPLED, generator=generator)
    basis = torch.linalg.qr(matrix @ start.to(matrix)).Q
    for _ in range(_POWER_STEPS):
        basis = torch.linalg.qr(matrix @ (matrix.T @ basis)).Q
    inputs, values, outputs = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    return (outputs[:rank].T * values[:rank]), basis @ inputs[:, :rank]
