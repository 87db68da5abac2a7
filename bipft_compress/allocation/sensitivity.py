"""How much an error somewhere in the network matters at its end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bipft_compress.families import get_module

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROBES = 2
"""Random projections of the last hidden states for each batch."""


def sensitivities(
    model: PreTrainedModel, paths: Sequence[str], batches: Iterable[Tensor], seed: int = 0
) -> dict[str, Tensor]:
    """What an error of each channel of some modules' outputs comes to in the last hidden states.

    With J the Jacobian from a module's output to the last hidden states, an error e there, small
    and unlike the others, comes to ``E |J e|^2 = sum_c E[e_c^2] sum_i J_ic^2``. The sums over i are
    found by Hutchinson's method (1990): for random v of independent signs, ``E (J^T v)_c^2`` is
    that sum. One backward pass serves all modules.

    Args:
        model: in full precision, with blocks; not changed.
        paths: of modules, the first in the network before all others; see `by_channel` for the
            shapes of their outputs.
        batches: token ids, each (sequences, length), without padding.
        seed: of the random projections.

    Returns:
        For each path, (channels,): the normalised squared error of the last hidden states for each
        unit of mean squared error of the channel.
    """
    sums: dict[str, Tensor] = {}
    total = 0.0
    generator = torch.Generator().manual_seed(seed)
    with _frozen(model):
        for batch in batches:
            with torch.enable_grad(), _recorded(model, paths) as outputs:
                final = model.base_model(batch.to(model.device)).last_hidden_state
            centred = final.detach() - final.detach().mean((0, 1))
            total += float(centred.square().sum())
            for probe in range(PROBES):
                signs = torch.randint(0, 2, final.shape, generator=generator) * 2 - 1
                # A layer that is called several times has several outputs.
                recorded = [(path, output) for path in paths for output in outputs[path]]
                gradients = torch.autograd.grad(
                    final,
                    [output for _, output in recorded],
                    signs.to(final),
                    retain_graph=probe < PROBES - 1,
                )
                for (path, _), gradient in zip(recorded, gradients, strict=True):
                    own = by_channel(gradient).square().sum(0) / PROBES
                    sums[path] = sums[path] + own if path in sums else own
    return {path: value / total for path, value in sums.items()}


def errors_at_end(sensitivity: Tensor, left: Tensor) -> Tensor:
    """What the error of each token in a module's output comes to in the last hidden states.

    First order says too much of large errors: nothing is worse than no information. So the error
    of each token saturates: a few tokens, whose activations are a hundred times those of others,
    would decide all alone.

    Args:
        sensitivity: see `sensitivities`, (channels,).
        left: the error of each token, (tokens, channels).

    Returns:
        Normalised squared errors, (tokens,).
    """
    first_order = left.square() @ sensitivity.to(left)
    return first_order / (1 + first_order)


def error_at_end(sensitivity: Tensor, left: Tensor) -> float:
    """The mean over all tokens of `errors_at_end`, which takes the same."""
    return float(errors_at_end(sensitivity, left).mean())


def by_channel(output: Tensor) -> Tensor:
    """A module's output by token and channel.

    Args:
        output: (batch, length, channels), or (batch, heads, length, dim) of an attention.

    Returns:
        (batch * length, channels), where a head's numbers are neighbours.
    """
    return (output if output.dim() == 3 else output.transpose(1, 2).flatten(2)).flatten(0, 1)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No parameter has a gradient while it is open: activations alone are differentiated."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def _recorded(model: nn.Module, paths: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Outputs of modules by path, differentiable, of the pass that is run while it is open."""
    outputs: dict[str, list[Tensor]] = {path: [] for path in paths}

    def record(path: str, _: nn.Module, __: object, output: Tensor) -> Tensor:
        # The first in the network is a leaf: all that follow depend on it.
        outputs[path].append(output if output.requires_grad else output.detach().requires_grad_())
        return outputs[path][-1]

    handles = [
        get_module(model, path).register_forward_hook(partial(record, path)) for path in paths
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
