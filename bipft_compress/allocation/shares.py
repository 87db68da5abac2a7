"""What a module's own error comes to at the end of the network, once all behind it is fitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from bipft_compress.allocation.errors import WEIGHT_BITS, Choice


@dataclass(frozen=True)
class Shares:
    """What is left at the end of the errors that a kind of linear layer makes.

    Attributes:
        inputs: of those that its inputs' codes make.
        weights: of those that its weights' codes add, of which the descent over codes takes most.
        estimated: whether an estimator takes off more than that descent does without one.
    """

    inputs: float
    weights: float
    estimated: bool = False


LINEARS = {
    "query": Shares(0.11, 0.1),
    "key": Shares(0.11, 0.1),
    "value": Shares(0.11, 0.1),
    "attention_output": Shares(0.35, 0.35),
    "ffn_up": Shares(0.2, 0.2),
    "ffn_gate": Shares(0.2, 0.2),
    "ffn_down": Shares(0.16, 0.16, estimated=True),
    "bottleneck": Shares(0.2, 0.2),
}
"""By kind; from starts of all-MiniLM-L6-v2 with other bits in one kind of module.

See reports/LOG.md, 2026-11-27.
"""

EMBEDDING = 1.2
"""What is left of the word embeddings' error."""

ATTENTION = 0.25
"""What is left of the errors of an attention's codes."""


def left_of_linear(kind: str, errors: Mapping[Choice, float]) -> dict[Choice, float]:
    """What is left at the end of the error of each choice of bits for a linear layer.

    Args:
        kind: of the layer.
        errors: see `sensitivity.error_at_end`; of every weight and rank for each input.
    """
    shares = LINEARS[kind]
    finest, highest = max(WEIGHT_BITS), max(choice.rank for choice in errors)
    left = {}
    for choice in errors:
        fitted = choice if shares.estimated else replace(choice, rank=highest)
        of_inputs = errors[replace(fitted, weights=finest)]
        of_weights = max(errors[fitted] - of_inputs, 0.0)
        left[choice] = shares.inputs * of_inputs + shares.weights * of_weights
    return left
