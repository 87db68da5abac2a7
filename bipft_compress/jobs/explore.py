"""The curve of a checkpoint: what each budget keeps, from the cheapest bits to the finest."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from bipft_compress.allocation import Allocation, Targets
from bipft_compress.device import AUTO, choose_device
from bipft_compress.errors import UserError
from bipft_compress.files import atomic_directory, claim_output, read_json, write_atomically
from bipft_compress.fitting.compress import compress_on
from bipft_compress.jobs.keep import COMPARED_SENTENCES, first_sentences
from bipft_compress.jobs.original import read_original
from bipft_compress.provenance import provenance
from bipft_compress.recipe import Recipe
from bipft_compress.reporting.curve import (
    Curve,
    CurvePoint,
    Peer,
    render_curve_html,
    render_curve_markdown,
)
from bipft_compress.sources import short_name
from bipft_compress.tasks.sts import SentencePairs, compare, embed, set_name, spearman
from bipft_compress.text.corpus import BUILTIN

logger = logging.getLogger("bipft_compress")

EXPLORED_TOKENS = 4096
"""Calibration tokens of a point: they show the curve's shape."""

READ_TOKENS = 8192
"""Tokens that a point's readout is fitted to."""

READ_LENGTH = 64
"""Longest sequence of these: so few tokens are to be many texts."""


def explore(
    source: str | Path,
    recipe: Recipe,
    out: str | Path,
    *,
    calibration: str | Path = BUILTIN,
    data: str | Path | None = None,
    beside: str | Path | None = None,
    budgets: int = 8,
    seed: int = 0,
    device: str = AUTO,
    overwrite: bool = False,
) -> Curve:
    """Measure a checkpoint once, then compress it for each of several budgets.

    Every point starts from closed forms on `EXPLORED_TOKENS` tokens, without gradient descent or
    training. Writes ``curve.json``, ``curve.md`` and ``curve.html``.

    Args:
        source: full-precision checkpoint: directory or hub name.
        recipe: everything but bits.
        out: new directory.
        calibration: text like that the model will see.
        data: sentence pairs to score each point on: see `SentencePairs.read`; None for none.
        beside: figures of other systems, of ``benchmarks/compare_embeddings.py``; those on a set of
            the name of `data` are drawn beside the curve.
        budgets: how many points, at least 2.
        seed: of everything random.
        device: see `choose_device`.
        overwrite: replace what is in `out`.

    Raises:
        UserError: the checkpoint, the recipe, the text, the data or the output is at fault.
    """
    if budgets < 2:
        raise UserError(f"--budgets {budgets} is not valid: a curve has 2 points or more.")
    pairs = None if data is None else SentencePairs.read(data)
    peers = [] if beside is None else read_peers(Path(beside), data)
    with claim_output(out, overwrite, [source, calibration, data]) as target:
        sketch = recipe.with_words_as_coded().changed(
            initialisation={"calibration_tokens": EXPLORED_TOKENS, "layer_epochs": 0},
            readout={"tokens": READ_TOKENS, "sequence_length": READ_LENGTH, "steps": 0},
        )
        logger.info("measuring what the bits of each module are worth")
        original = read_original(source, sketch, choose_device(device))
        allocator = original.allocator(calibration)
        tokenizer, pool = original.tokenizer, original.pool
        sentences = first_sentences(calibration, COMPARED_SENTENCES)
        wanted = embed(original.model, tokenizer, sentences, pool=pool)
        points = []
        for number, targets in enumerate(allocator.ladder(budgets)):
            allocation = allocator.allocate(targets)
            student = compress_on(original.model, allocation.recipe, allocator.text, seed=seed)
            packed = student.packed()
            points.append(
                CurvePoint(
                    operations=allocation.operations,
                    memory=allocation.memory,
                    error=student.layer_errors[-1],
                    likeness=compare(embed(packed, tokenizer, sentences, pool=pool), wanted).cosine,
                    score=None if pairs is None else spearman(packed, tokenizer, pairs, pool),
                    latency_ms=allocator.latency_ms(allocation.recipe),
                    command=_command(source, calibration, targets),
                )
            )
            logger.info("%d of %d: %s", number + 1, budgets, _summary(allocation, points[-1]))
        curve = Curve(
            checkpoint=short_name(source),
            score=None if pairs is None else spearman(original.model, tokenizer, pairs, pool),
            points=points,
            peers=peers,
            provenance=provenance({}, "explore", seed=seed, calibration=calibration),
        )
        texts = {
            "curve.json": curve.model_dump_json(indent=2) + "\n",
            "curve.md": render_curve_markdown(curve),
            "curve.html": render_curve_html(curve),
        }
        with atomic_directory(target, overwrite) as work:
            for name, text in texts.items():
                write_atomically(work / name, text)
    return curve


def read_peers(figures: Path, data: str | Path | None) -> list[Peer]:
    """Systems that were measured on a set: all but full precision, and our own.

    Raises:
        UserError: no figures of that set.
    """
    measure = None if data is None else f"sts_spearman_{set_name(Path(data))}"
    rows: Any = read_json(figures).get("rows")
    try:
        whole = max(row["bytes"] for row in rows.values())
        peers = [
            Peer(name=name, memory=whole / row["bytes"], score=row["scores"][measure])
            for name, row in rows.items()
            if row["bytes"] < whole and not name.startswith("this package")
        ]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(
            f"{figures} has no scores on {data}: give figures of compare_embeddings.py, and the "
            "sentence pairs of --data under the name that the set has there."
        ) from None
    return peers


def _command(source: str | Path, calibration: str | Path, targets: Targets) -> str:
    text = "" if calibration == BUILTIN else f" --calibration {calibration}"
    # Rounded down, so that the command asks for no more than was reached.
    return (
        f"bipft-compress compress {source}{text} --target-operations "
        f"{int(10 * (targets.operations or 0)) / 10} --target-memory "
        f"{int(10 * (targets.memory or 0)) / 10} --out DIR"
    )


def _summary(allocation: Allocation, point: CurvePoint) -> str:
    return (
        f"{allocation.operations:.1f} times fewer operations, {allocation.memory:.1f} times "
        f"smaller, error {point.error:.3f}, likeness {point.likeness:.3f}"
    )
