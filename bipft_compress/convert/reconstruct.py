"""After the closed forms: a layer's own gradient descent, on the calibration text.

The closed forms fit one module at a time. Here all of a layer's signs, scales, estimators and
attention move together against the teacher's output of that layer. The gradient passes one layer
only, so it is sharp, and a step costs a fraction of one through the whole model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bipft_compress.convert.layerwise import LayerwiseRunner
from bipft_compress.recipe import Initialisation

WARMUP = 0.1
"""Share of the steps over which the learning rate rises; it then falls to zero."""


def reconstruct_layer(
    ours: LayerwiseRunner, theirs: LayerwiseRunner, choices: Initialisation
) -> None:
    """Train the student's current layer on the teacher's output for the same tokens, in place.

    Args:
        ours: the student, before the layer.
        theirs: the teacher, after it.
        choices: the recipe's `initialisation` section.
    """
    layer, batches = ours.layer, len(ours)
    parameters = [p for p in layer.parameters() if p.requires_grad]
    # No decay: scales and estimators are fitted numbers, and of a latent weight the sign counts.
    optimizer = torch.optim.AdamW(
        parameters, lr=choices.layer_learning_rate, betas=(0.9, 0.98), weight_decay=0.0
    )
    steps = choices.layer_epochs * batches
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (WARMUP * steps), 1.0) * (1.0 - step / steps)
    )
    unit = _variance(theirs) / batches
    for epoch in range(choices.layer_epochs):
        order = torch.randperm(batches, generator=torch.Generator().manual_seed(epoch))
        for batch in order.tolist():
            output = _forward(layer, ours, batch)
            # A sum over tokens: batches of a rare length are small and must not count like others.
            loss = (output - theirs.hidden(batch)).square().sum() / unit
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss, inputs=parameters)
            optimizer.step()
            scheduler.step()
    optimizer.zero_grad(set_to_none=True)


def _forward(layer: nn.Module, ours: LayerwiseRunner, batch: int) -> Tensor:
    args, kwargs = ours.call(batch)
    with torch.enable_grad():
        result = layer(*args, **kwargs)
    output: Tensor = result[0] if isinstance(result, tuple) else result
    return output


def _variance(theirs: LayerwiseRunner) -> float:
    """Summed squared distance of the wanted outputs from their mean."""
    hidden = [theirs.hidden(batch).flatten(0, 1) for batch in range(len(theirs))]
    mean = torch.stack([x.sum(0) for x in hidden]).sum(0) / sum(map(len, hidden))
    return sum(float((x - mean).square().sum()) for x in hidden)
