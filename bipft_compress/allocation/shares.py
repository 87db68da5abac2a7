"""What is left of a module's own error at the end of the network, once all behind it is fitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bipft_compress.allocation.errors import Choice

LEFT = {
    "embedding": 1.2,
    "attention": 0.25,
    "query": 0.1,
    "key": 0.1,
    "value": 0.1,
    "attention_output": 0.35,
    "ffn_up": 0.2,
    "ffn_gate": 0.2,
    "ffn_down": 0.16,
    "bottleneck": 0.2,
}
"""By kind; from starts of all-MiniLM-L6-v2 with other bits in one kind of module.

See reports/LOG.md, 2026-11-27.
"""

ESTIMATED = {"ffn_down"}
"""Kinds of linear layers whose estimators take off more than the descent over codes does."""


def left_of_linear(kind: str, errors: Mapping[Choice, float]) -> dict[Choice, float]:
    """What is left at the end of the error of each choice of bits for a linear layer.

    Args:
        kind: of the layer.
        errors: see `sensitivity.error_at_end`; of every rank for the same bits.
    """
    highest = max(choice.rank for choice in errors)
    return {
        choice: LEFT[kind] * errors[choice if kind in ESTIMATED else replace(choice, rank=highest)]
        for choice in errors
    }
