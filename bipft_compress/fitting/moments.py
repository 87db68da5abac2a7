"""Second moments of a layer's data, gathered batch by batch: all that the closed forms look at.

Memory is O(in^2 + in*out) however much text they are gathered from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

_CHUNK = 8192
"""Tokens that are gathered before their products are added."""


def exact(x: Tensor) -> Tensor:
    """`x` in fp64, on its own device where that has such numbers, else on the CPU."""
    return x.cpu().double() if x.device.type == "mps" else x.double()


@dataclass
class LinearMoments:
    """Moments of a binary linear layer's input x, its codes b, and the wanted output y.

    Accumulated in fp32 per batch and summed in fp64.

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
        self.origin_x, self.origin_y = zeros(n), zeros(m)
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
        if not self.count:
            # Sums of squares minus squares of sums lose what is small beside the means: take these
            # off first, near enough.
            self.origin_x, self.origin_y = exact(x.mean(0)), exact(y.mean(0))
        x, y = x - self.origin_x.to(x), y - self.origin_y.to(y)
        self.count += len(x)
        self.x += exact(x.sum(0))
        self.b += exact(b.sum(0))
        self.y += exact(y.sum(0))
        self.yy += exact(y.square().sum(0))
        self.bb += exact(b.T @ b)
        self.yb += exact(y.T @ b)
        if self.of_inputs:
            self.xx += exact(x.T @ x)
            self.bx += exact(b.T @ x)
            self.yx += exact(y.T @ x)

    def centred(self) -> Covariances:
        """Covariances of everything gathered so far."""
        self._flush()
        n = self.count
        x, b, y = self.x / n, self.b / n, self.y / n

        def of_inputs(sums: Tensor, mean: Tensor) -> Tensor:
            return sums / n - torch.outer(mean, x) if self.of_inputs else sums

        return Covariances(
            mean_x=x + self.origin_x,
            mean_b=b,
            mean_y=y + self.origin_y,
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
