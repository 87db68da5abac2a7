"""What each layer knows of a text: see `fitting.readout`, which measures it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field


@dataclass(frozen=True)
class Knowledge:
    """How far the embedding of a text can be read from each layer by a linear map.

    Cosine with the original's embedding, mean of texts that the maps were not fitted to; the
    embedding layer's first.
    """

    full_precision: Annotated[list[float], Field(description="Of the original's layers.")] = field(
        default_factory=list
    )
    compressed: Annotated[
        list[float], Field(description="Of the binary model's layers, before its readout.")
    ] = field(default_factory=list)
    embedding: Annotated[
        float | None,
        Field(description="Of the binary model's own embeddings, readout included; no map."),
    ] = None
