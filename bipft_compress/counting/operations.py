"""Counts the operations of a forward pass, in full precision and made binary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bipft_compress.counting import costs
from bipft_compress.counting.blocks import block_parts
from bipft_compress.counting.parts import FULL_WIDTHS, elementwise_part, estimator_part, kept_part
from bipft_compress.counting.pipeline import pipeline_operations
from bipft_compress.counting.schema import Count, ExactCount, OperationPart, Operations
from bipft_compress.counting.shapes import ModelShape
from bipft_compress.loading import SentencePipeline

LEFT_OUT = (
    "Tables that a pass fills once: exponentials of the integers that the scores of a head can be, "
    "and of a bias by distance.",
    "Memory traffic: reading weights, table look-ups, packing bits and moving data.",
    "Integer arithmetic that replaces floating point: comparisons of accumulators with thresholds "
    "are counted (operations by bit width), but are no FLOPs.",
    "The square root and division of each norm's row and the division of each softmax row, "
    "which all elements of the row share.",
    "Products whose result is not read, of both models: scores of keys outside a sliding window, "
    "and with distances that no two tokens of the sequence have. Implementations may compute them.",
    "Activation functions and sums inside task heads and inside the layers' full-precision parts; "
    "cosines and sines of rotary positions; bias and norm of DeBERTa's table of distances, and its "
    "mask of embeddings; tokenization; pooling of sentence embeddings.",
)
"""What the operation counts leave out, in sentences."""


def count_operations(shape: ModelShape, pipeline: SentencePipeline | None = None) -> Operations:
    """Both counts of a model, and of what sentence-transformers computes behind it.

    Every formula is for `shape.batch` sequences of `shape.length` tokens. Units: FLOPs in the
    papers' convention (`counting.costs`).
    """
    parts = [*_embeddings(shape)]
    for layer in shape.layers:
        parts += block_parts(shape, layer)
    parts += _outside(shape)
    parts += _readout(shape)
    parts += pipeline_operations(pipeline, shape.batch)
    full = sum(part.full_precision for part in parts)
    compressed = sum(part.compressed for part in parts)
    return Operations(
        full_precision=full,
        compressed=compressed,
        ratio=full / compressed,
        by_kind=_by_kind(parts),
        by_bits={
            "full_precision": _exact(parts, full=True),
            "compressed": _exact(parts, full=False),
        },
        left_out=list(LEFT_OUT),
        parts=parts,
    )


def _embeddings(shape: ModelShape) -> Iterator[OperationPart]:
    added = [table.width * table.rows for table in shape.tables[1:] if table.summed]
    adds = costs.ADD * sum(added)
    yield elementwise_part("embedding sum", "embeddings", adds, adds, "look-ups are no arithmetic")
    for table in shape.tables:
        if table.scaled:
            yield elementwise_part(
                f"{table.path} (decode)",
                "embeddings",
                0,
                costs.MULTIPLY * table.width * table.rows,
                "one scale a number",
            )


def _readout(shape: ModelShape) -> Iterator[OperationPart]:
    """What a readout computes beside its products: means of tokens, and their correction."""
    if shape.readout is not None:
        readout = shape.readout
        weighted = (costs.MULTIPLY + costs.ADD) * readout.means
        flops = (weighted + costs.ADD * readout.corrected) * readout.width
        note = "weighted means of hidden states, and adding the correction"
        yield elementwise_part(f"{readout.path} (sums)", "readout", 0, flops, note)


def _outside(shape: ModelShape) -> Iterator[OperationPart]:
    """What runs outside the blocks: the same in both models, but for a readout."""
    for part in shape.outside:
        if part.kind == "readout":
            yield estimator_part(part.path, part.macs, "once a text", kind="readout")
            if part.bias:
                adds = costs.ADD * part.values
                yield elementwise_part(f"{part.path} (bias)", part.kind, 0, adds)
            continue
        if part.norm is not None:
            flops = costs.norm(part.norm) * part.values
            yield elementwise_part(part.path, part.kind, flops, flops)
            continue
        yield kept_part(part.path, part.kind, part.macs)
        flops = costs.ADD * part.values if part.bias else 0
        note = "bias"
        if part.kind == "pooler":
            flops, note = flops + costs.TANH * part.values, "bias and tanh"
        if flops:
            yield elementwise_part(f"{part.path} ({note})", part.kind, flops, flops)


def _by_kind(parts: Iterable[OperationPart]) -> dict[str, Count]:
    counts: dict[str, Count] = {}
    for part in parts:
        before = counts.get(part.kind, Count(macs=0, full_precision=0, compressed=0))
        counts[part.kind] = Count(
            macs=before.macs + part.macs,
            full_precision=before.full_precision + part.full_precision,
            compressed=before.compressed + part.compressed,
        )
    return counts


def _exact(parts: Iterable[OperationPart], *, full: bool) -> ExactCount:
    macs: dict[str, int] = {}
    comparisons, elementwise = 0, 0.0
    for part in parts:
        flops = part.full_precision if full else part.compressed
        if not part.macs:
            elementwise += flops
            comparisons += 0 if full else part.integer_comparisons
        elif flops:
            # Estimators belong to the binary model alone, projections of distances to the original.
            bits = FULL_WIDTHS if full else part.bits
            macs[bits] = macs.get(bits, 0) + part.macs
    return ExactCount(
        macs=macs, integer_comparisons=comparisons, elementwise_flops=int(elementwise)
    )
