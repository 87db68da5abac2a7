"""Learning rates for numbers of very different sizes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bipft_compress.nn import BinaryAttention, BinaryLinear, SignEmbedding

FITTED_RATE = 8.0
"""Learning rate of a tensor of size 1 over that of latent weights, whose size is `LATENT_STEP`."""

SMALLEST = 1e-3
"""Size that a tensor counts as, at least."""


def optimiser(
    groups: list[dict[str, Any]], steps: int, warmup: float
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW whose rates rise over a share of the steps, `warmup`, and then fall to zero.

    No decay: scales and estimators are fitted numbers, and of a latent weight the code counts.
    """
    adam = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    return adam, torch.optim.lr_scheduler.LambdaLR(
        adam, lambda step: min((step + 1) / (warmup * steps), 1.0) * (1.0 - step / steps)
    )


def latent_weights(module: nn.Module) -> list[nn.Parameter]:
    """Parameters of which only the codes are ever used; each once, in the order of modules."""
    latent = []
    for part in module.modules():
        if isinstance(part, BinaryLinear):
            latent.append(part.weight)
        elif isinstance(part, SignEmbedding):
            latent.append(part.latent)
        elif isinstance(part, BinaryAttention):
            tables = (part.position_key, part.position_query)
            latent += [table for table in tables if table is not None]
    return latent


def relative_rates(module: nn.Module, rate: float) -> list[dict[str, Any]]:
    """An optimizer's groups of parameters: a step changes each tensor in proportion to its size.

    A step of Adam is about as large as the learning rate, whatever the gradient. Latent weights
    are all of one size. Scales, biases and estimators are not: those of 8-bit codes are a hundredth
    of those of signs, and one step of the same size would undo what was fitted (as in Adafactor,
    Shazeer and Stern 2018, section 8).

    Args:
        module: whose trainable parameters are grouped.
        rate: learning rate of latent weights.

    Returns:
        ``params`` and ``lr`` of each group, the latent weights first.
    """
    latent = [weight for weight in latent_weights(module) if weight.requires_grad]
    seen = set(map(id, latent))
    groups: list[dict[str, Any]] = [{"params": latent, "lr": rate}] if latent else []
    for parameter in module.parameters():
        if parameter.requires_grad and id(parameter) not in seen:
            size = float(parameter.detach().square().mean().sqrt())
            groups.append({"params": [parameter], "lr": rate * FITTED_RATE * max(size, SMALLEST)})
    return groups
