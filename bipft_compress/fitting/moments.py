"""Second moments of a layer's data, gathered batch by batch: all that the closed forms look at.

Memory is O(in^2 + in*out) however much text they are gathered from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bipft_compress.collectives import is_alone, total

_CHUNK = 8192
"""Tokens that are gathered before their products are added."""


def exact(x: Tensor) -> Tensor:
    """`x` in fp64, on its own device where that has such numbers, else on the CPU."""
    return x.cpu().double() if x.device.type == "mps" else x.double()


@dataclass
class LinearMoments:
    """Moments of a binary linear layer's input x, its codes b, and the wanted output y.

    Each chunk is centred by its own means before its products are taken, and chunks are joined by
    the distance of their means (Chan, Golub and LeVeque 1979): no small difference of large sums
    is ever taken, so that no variance comes out negative. Products are in fp32, sums in fp64.

    Args:
        in_features: width of x and b.
        out_features: width of y.
        of_inputs: gather what an estimator, which reads x itself, is fitted to; if not, ``xx``,
            ``bx`` and ``yx`` stay 0, and gathering costs half as much.
        device: of the batches.
    """

    in_features: int
    out_features: int
    of_inputs: bool = True
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        n, m = self.in_features, self.out_features
        self.count = 0

        def zeros(*shape: int) -> Tensor:
            return exact(torch.zeros(*shape, device=self.device))

        self.x, self.b, self.y, self.yy = zeros(n), zeros(n), zeros(m), zeros(m)
        self.xx, self.bb, self.bx = zeros(n, n), zeros(n, n), zeros(n, n)
        self.yx, self.yb = zeros(m, n), zeros(m, n)
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
        before, tokens = self.count, len(x)
        self.count += tokens
        (x, mean_x), (b, mean_b), (y, mean_y) = _centre(x), _centre(b), _centre(y)
        step_x, step_b, step_y = mean_x - self.x, mean_b - self.b, mean_y - self.y
        # Of the distance of two means, in the squares around their common one.
        weight = before * tokens / self.count
        self.yy += exact(y.square().sum(0)) + weight * step_y.square()
        self.bb += exact(b.T @ b) + weight * torch.outer(step_b, step_b)
        self.yb += exact(y.T @ b) + weight * torch.outer(step_y, step_b)
        if self.of_inputs:
            self.xx += exact(x.T @ x) + weight * torch.outer(step_x, step_x)
            self.bx += exact(b.T @ x) + weight * torch.outer(step_b, step_x)
            self.yx += exact(y.T @ x) + weight * torch.outer(step_y, step_x)
        for mean, step in ((self.x, step_x), (self.b, step_b), (self.y, step_y)):
            mean += step * (tokens / self.count)

    def centred(self) -> Covariances:
        """Covariances of everything gathered so far, by all processes of the run."""
        self._flush()
        if not is_alone():
            self._join()
        n = self.count
        return Covariances(
            mean_x=self.x.clone(),
            mean_b=self.b.clone(),
            mean_y=self.y.clone(),
            xx=self.xx / n,
            bb=self.bb / n,
            bx=self.bx / n,
            yx=self.yx / n,
            yb=self.yb / n,
            yy=self.yy / n,
        )

    def _join(self) -> None:
        """Add what the other processes gathered, as chunks are joined."""
        own = self.count
        self.count = int(total(torch.tensor(own, device=self.x.device)))
        steps = []
        for mean in (self.x, self.b, self.y):
            common = total(mean * own) / self.count
            steps.append(mean - common)
            mean.copy_(common)
        x, b, y = steps
        self.yy = total(self.yy + own * y.square())
        self.bb = total(self.bb + own * torch.outer(b, b))
        self.yb = total(self.yb + own * torch.outer(y, b))
        if self.of_inputs:
            self.xx = total(self.xx + own * torch.outer(x, x))
            self.bx = total(self.bx + own * torch.outer(b, x))
            self.yx = total(self.yx + own * torch.outer(y, x))


def _centre(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows less their mean, and the mean in fp64: of one that is near enough, and what it lacks."""
    near = x.mean(0)
    x = x - near
    rest = x.mean(0)
    return x - rest, exact(near) + exact(rest)


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
