"""After the closed forms: a layer's own gradient descent, on the calibration text.

The closed forms fit one module at a time. Here all of a layer's signs, scales, estimators and
attention move together against the teacher's output of that layer. The gradient passes one layer
only, so it is sharp, and a step costs a fraction of one through the whole model.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bipft_compress.fitting.layerwise import Call
from bipft_compress.fitting.rates import optimiser, relative_rates
from bipft_compress.recipe import Initialisation

WARMUP = 0.1
"""Share of the steps over which the learning rate rises; it then falls to zero."""


FULL_RATE = 0.5
"""Normalised error from which on the learning rate is the recipe's; below, its root counts."""

COMPARED_EXAMPLES = 8
"""Examples that a layer's error before and after the descent is taken from, of all lengths."""


def reconstruct_layer(
    layer: nn.Module, examples: Sequence[tuple[Call, Tensor]], choices: Initialisation
) -> None:
    """Train the student's layer on the teacher's output for the same tokens, in place.

    A descent that leaves more than the closed forms did, as on very little text, is undone.

    Args:
        layer: the student's.
        examples: calls of it, and the hidden states that the teacher has after them.
        choices: the recipe's `initialisation` section.
    """
    unit = _variance([target for _, target in examples]) / len(examples)
    if not unit:
        return  # weights of zeros: there is nothing to learn
    few = examples[:: -(-len(examples) // COMPARED_EXAMPLES)]
    before, start = copy.deepcopy(layer.state_dict()), _error(layer, few)
    # Where closed forms leave little, large steps would only add to it.
    rate = choices.layer_learning_rate * min(1.0, (start / FULL_RATE) ** 0.5)
    groups = relative_rates(layer, rate)
    parameters = [parameter for group in groups for parameter in group["params"]]
    optimizer, scheduler = optimiser(groups, choices.layer_epochs * len(examples), WARMUP)
    for epoch in range(choices.layer_epochs):
        order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(epoch))
        for number in order.tolist():
            call, target = examples[number]
            with torch.enable_grad():
                # A sum over tokens: batches of a rare length are small and must not count alike.
                loss = (call.run(layer) - target).square().sum() / unit
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss, inputs=parameters)
            optimizer.step()
            scheduler.step()
    optimizer.zero_grad(set_to_none=True)
    if not _error(layer, few) <= start:
        layer.load_state_dict(before)


@torch.no_grad()
def _error(layer: nn.Module, examples: Sequence[tuple[Call, Tensor]]) -> float:
    """Normalised squared error of the layer's output; 0 where the target does not vary."""
    error = sum(float((call.run(layer) - target).square().sum()) for call, target in examples)
    variance = _variance([target for _, target in examples])
    return error / variance if variance else 0.0


def _variance(targets: Sequence[Tensor]) -> float:
    """Summed squared distance of the wanted outputs from their mean."""
    tokens = [target.flatten(0, 1) for target in targets]
    mean = torch.stack([x.sum(0) for x in tokens]).sum(0) / sum(map(len, tokens))
    return sum(float((x - mean).square().sum()) for x in tokens)
