"""What a configuration claims is bounded before anything is built from it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PretrainedConfig

from bipft_compress.errors import CheckpointError, UserError, first_line

_REPEATED = re.compile(r"layers|heads|groups?$|group_num|networks")
"""Keys that count modules, each of which takes time to build even without weights."""
_MOST_REPEATED = 4096

_SIZE = re.compile(r"size|dim|length|position|vocab|labels|rank|buckets|window|^num_|^n_")
_LARGEST_SIZE = 10_000_000

_SHARED = 64
"""Layers that may run on the tensors of fewer, as ALBERT's do."""

_FEW = 50_000_000
"""Numbers of a head or a pooler that a checkpoint may lack and that start afresh."""

_BUILDING = (
    ArithmeticError, LookupError, TypeError, ValueError, RuntimeError, AttributeError,
    AssertionError, StrictDataclassError,
)  # fmt: skip
"""What transformers and torch raise for values that fit no model."""


def check_claims(values: Mapping[str, Any], where: str | Path) -> None:
    """Refuse sizes that no checkpoint has: transformers would build for hours, or take all memory.

    So too numbers that only a forward pass would stumble over.

    Args:
        values: of a ``config.json``, as it lies there.
        where: it was read.

    Raises:
        CheckpointError: a count of modules or a size is beyond any model's, a count is negative,
            or a dropout is no probability.
    """
    for key, value in values.items():
        if isinstance(value, Mapping):
            check_claims(value, where)
        if "dropout" in key and type(value) in (int, float) and not 0 <= value <= 1:
            raise CheckpointError(f"{where} has {key} = {value}, which is no probability.")
        if type(value) is not int:
            continue
        repeated = _REPEATED.search(key)
        most = _MOST_REPEATED if repeated else _LARGEST_SIZE if _SIZE.search(key) else None
        if repeated and value < 0:
            raise CheckpointError(f"{where} has {key} = {value}, which is no number of modules.")
        if most is not None and value > most:
            raise CheckpointError(
                f"{where} claims {key} = {value}, more than the {most:,} that any model has: it is "
                "damaged or not a model's configuration."
            )


def check_layers(config: PretrainedConfig, tensors: int, where: str | Path) -> None:
    """Refuse a configuration with more layers than a file of `tensors` can hold.

    Raises:
        CheckpointError: it claims more.
    """
    layers = getattr(config, "num_hidden_layers", 0)
    if isinstance(layers, int) and layers > max(tensors, _SHARED):
        raise CheckpointError(
            f"{where} has {layers:,} layers by its configuration, and its file holds {tensors:,} "
            "tensors: they do not belong together."
        )


def check_numbers(claimed: int, held: int, where: str | Path) -> None:
    """Refuse a configuration whose model has far more numbers than its file holds.

    Raises:
        CheckpointError: it claims more than a fresh head would add.
    """
    if claimed > 2 * held + _FEW:
        raise CheckpointError(
            f"{where} has {claimed:,} numbers by its configuration, and its file holds {held:,}: "
            "they do not belong together."
        )


@contextmanager
def configuration_faults(where: str | Path) -> Iterator[None]:
    """Turn what is raised while a model is built into a `CheckpointError`."""
    try:
        yield
    except UserError:
        raise
    except _BUILDING as error:
        raise CheckpointError(
            f"The configuration of {where} fits no model ({first_line(error)})."
        ) from None
