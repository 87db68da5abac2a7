"""Second moments of a layer's data, gathered batch by batch: all that the closed forms look at.

Memory is O(in^2 + in*out) however much text they are gathered from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

_CHUNK = 8192
"""Tokens that are gathered before their products are added."""


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.float64)


@dataclass
class LinearMoments:
    """Moments of a binary linear layer's input x, its codes b, and the wanted output y.

    Accumulated in fp32 per batch and summed in fp64.

    Args:
        in_features: width of x and b.
        out_features: width of y.
        of_inputs: gather what an estimator, which reads x itself, is fitted to; if not, ``xx``,
            ``bx`` and ``yx`` stay 0, and gathering costs half as much.
    """

    in_features: int
    out_features: int
    of_inputs: bool = True

    def __post_init__(self) -> None:
        n, m = self.in_features, self.out_features
        self.count = 0
        self.x, self.b, self.y, self.yy = _zeros(n), _zeros(n), _zeros(m), _zeros(m)
        self.xx, self.bb, self.bx = _zeros(n, n), _zeros(n, n), _zeros(n, n)
        self.yx, self.yb = _zeros(m, n), _zeros(m, n)
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []

    def update(self, x: Tensor, b: Tensor, y: Tensor) -> None:
        """Add a batch: `x` and `b` (tokens, in), `y` (tokens, out)."""
        self._waiting.append((x, b, y))
        # Products of many tokens at a time: adding up (in, in) matrices costs as much as a product.
        if sum(len(part[0]) for part in self._waiting) >= _CHUNK:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        x, b, y = (torch.cat(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting.clear()
        self.count += len(x)
        self.x += x.sum(0)
        self.b += b.sum(0)
        self.y += y.sum(0)
        self.yy += y.square().sum(0)
        self.bb += b.T @ b
        self.yb += y.T @ b
        if self.of_inputs:
            self.xx += x.T @ x
            self.bx += b.T @ x
            self.yx += y.T @ x

    def centred(self) -> Covariances:
        """Covariances of everything gathered so far."""
        self._flush()
        n = self.count
        x, b, y = self.x / n, self.b / n, self.y / n

        def of_inputs(sums: Tensor, mean: Tensor) -> Tensor:
            return sums / n - torch.outer(mean, x) if self.of_inputs else sums

        return Covariances(
            mean_x=x,
            mean_b=b,
            mean_y=y,
            xx=of_inputs(self.xx, x),
            bb=self.bb / n - torch.outer(b, b),
            bx=of_inputs(self.bx, b),
            yx=of_inputs(self.yx, y),
            yb=self.yb / n - torch.outer(y, b),
            yy=self.yy / n - y * y,
        )


@dataclass(frozen=True)
class Covariances:
    """Means and covariances of x, b (in) and y (out); ``yy`` is the variance of each output."""

    mean_x: Tensor
    mean_b: Tensor
    mean_y: Tensor
    xx: Tensor
    bb: Tensor
    bx: Tensor
    yx: Tensor
    yb: Tensor
    yy: Tensor

    def outputs(self, rows: slice) -> Covariances:
        """The same for some of the outputs: layers that read one input share its moments."""
        parts = {name: getattr(self, name)[rows] for name in ("mean_y", "yx", "yb", "yy")}
        return replace(self, **parts)
