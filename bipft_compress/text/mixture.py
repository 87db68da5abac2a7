"""Several corpora as one, each with its share of the text."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bipft_compress.errors import CorpusError


class Source(NamedTuple):
    """One of the corpora of a mixture."""

    name: str
    """As the user wrote it, without the weight."""
    weight: float
    """Its share of the characters, in relation to the other weights."""


def parse_sources(corpus: str | Path) -> list[Source]:
    """The sources of ``wiki.parquet@0.3,captions.txt@0.7``.

    Args:
        corpus: sources with commas between; ``@`` and a positive number after one is its weight,
            which is 1 without it. A path that exists is one source, whatever characters it has.

    Raises:
        CorpusError: a weight is not a positive number.
    """
    text = str(corpus)
    parts = [text] if os.path.exists(text) else text.split(",")
    return [_parse_source(part.strip()) for part in parts]


def _parse_source(part: str) -> Source:
    if os.path.exists(part):
        return Source(part, 1.0)
    name, at, number = part.rpartition("@")
    if not at:
        name, number = part, "1"
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise CorpusError(
            f"{number!r} is not a weight that a source can have: write a positive number after "
            f"the @ of {part!r}."
        )
    return Source(name, weight)


def interleave(sources: Sequence[Iterator[str]], weights: Sequence[float]) -> Iterator[str]:
    """Documents of several sources in a fixed order, in which the weights hold at every point.

    The next document is from the source that has given the fewest characters for its weight, and
    of several the first (start-time fair queueing, Goyal et al. 1996), so that at any point each
    is within a document of its share. The text ends where the source whose turn it is has no
    document left: the shares hold to the end.

    Args:
        sources: documents of each; at least one source.
        weights: of each, positive; shares of the characters.
    """
    given = [0.0] * len(sources)
    while True:
        index = min(range(len(sources)), key=given.__getitem__)
        document = next(sources[index], None)
        if document is None:
            return
        given[index] += len(document) / weights[index]
        yield document
