"""Counts the operations of a forward pass, in full precision and made binary.

What stays in floating point in a fused 1-bit runtime: a value that is only ever read by a
binarizer needs none, because scale, bias, activation function and threshold fold into an integer
comparison of the accumulator. A value that an estimator, a residual or a softmax reads is computed
in floating point, and coding it then costs float comparisons.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bipft_compress.counting import costs
from bipft_compress.counting.parts import (
    codes_part,
    elementwise_part,
    estimator_part,
    product_part,
)
from bipft_compress.counting.schema import Count, ExactCount, OperationPart, Operations
from bipft_compress.counting.shapes import AttentionShape, LayerShape, LinearShape, ModelShape

LEFT_OUT = (
    "Memory traffic: reading weights, table look-ups, packing bits and moving data.",
    "Integer arithmetic that replaces floating point: comparisons of accumulators with thresholds "
    "are counted (operations by bit width), but are no FLOPs.",
    "The square root and division of each LayerNorm row and the division of each softmax row, "
    "which all elements of the row share.",
    "Activation functions inside task heads; tokenization; pooling of sentence embeddings.",
)
"""What the operation counts leave out, in sentences."""


def count_operations(shape: ModelShape) -> Operations:
    """Both counts of a model.

    Every formula is for `shape.batch` sequences of `shape.length` tokens. Units: FLOPs in the
    papers' convention (`counting.costs`).
    """
    parts = [*_embeddings(shape)]
    for layer in shape.layers:
        parts += _layer(shape, layer)
    parts += _outside(shape)
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
    word, *others = shape.tables
    adds = costs.ADD * len(others) * word.width * shape.tokens
    yield elementwise_part("embedding sum", "embeddings", adds, adds, "look-ups are no arithmetic")
    for table in shape.tables:
        if table.scaled:
            yield elementwise_part(
                f"{table.path} (decode)",
                "embeddings",
                0,
                costs.MULTIPLY * table.width * shape.tokens,
                "one scale a number",
            )


def _layer(shape: ModelShape, layer: LayerShape) -> Iterator[OperationPart]:
    tokens, linears, attention = shape.tokens, layer.linears, layer.attention
    up, down = linears["ffn_up"], linears["ffn_down"]
    by_heads = attention.hidden_size == 0
    float_query = bool(linears["query"].rank or (attention.score_rank and by_heads))
    float_key = bool(linears["key"].rank or (attention.score_rank and by_heads))
    float_value = bool(linears["value"].rank or (attention.context_rank and by_heads))
    float_context = bool(attention.context_rank or linears["attention_output"].rank)
    float_up = bool(up.rank or down.rank)

    for kind, is_float in (("query", float_query), ("key", float_key), ("value", float_value)):
        yield _residual_codes(shape, linears[kind])
        yield from _linear(shape, linears[kind], is_float=is_float)
    yield from _attention(
        shape, attention, (float_query, float_key, float_value), float_context=float_context
    )
    output = linears["attention_output"]
    yield codes_part(
        f"{output.path} (input codes)",
        tokens * output.inputs,
        costs.thresholds(output.bits),
        is_float=float_context,
    )
    yield from _linear(shape, output, is_float=True)
    yield _residual_codes(shape, up)
    yield from _linear(shape, up, is_float=float_up)
    yield from _activation(shape, layer, float_up=float_up)
    yield from _linear(shape, down, is_float=True)
    for linear in (output, down):
        adds = costs.ADD * tokens * linear.outputs
        yield elementwise_part(f"{linear.path} (residual add)", "epilogue", adds, adds)
    for path, width in layer.norms.items():
        flops = costs.LAYER_NORM * tokens * width
        yield elementwise_part(path, "layer_norm", flops, flops)


def _residual_codes(shape: ModelShape, linear: LinearShape) -> OperationPart:
    """Codes of the residual stream, which is in floating point."""
    return codes_part(
        f"{linear.path} (input codes)",
        shape.tokens * linear.inputs,
        costs.thresholds(linear.bits),
        is_float=True,
    )


def _linear(shape: ModelShape, linear: LinearShape, *, is_float: bool) -> Iterator[OperationPart]:
    """A linear layer; `is_float`: whether anything but a binarizer reads its output."""
    tokens, path = shape.tokens, linear.path
    yield product_part(path, "linear", tokens * linear.inputs * linear.outputs, linear.bits, 1)
    if linear.rank:
        macs = tokens * linear.rank * (linear.inputs + linear.outputs)
        yield estimator_part(f"{path}.estimator", macs, f"rank {linear.rank}")
    values = tokens * linear.outputs
    yield elementwise_part(
        f"{path} (scale and bias)",
        "epilogue",
        costs.ADD * values,
        costs.FLOAT_OUTPUT * values if is_float else 0,
        "" if is_float else "folded into the thresholds of the next codes",
    )


def _activation(shape: ModelShape, layer: LayerShape, *, float_up: bool) -> Iterator[OperationPart]:
    down = layer.linears["ffn_down"]
    values = shape.tokens * down.inputs
    flops = costs.activation(shape.activation) * values
    computed = down.rank > 0
    yield elementwise_part(
        f"{layer.path} ({shape.activation})",
        "activation",
        flops,
        flops if computed else 0,
        "read by the estimator" if computed else "folded into the thresholds of the next codes",
    )
    folded = None if computed else shape.activation
    yield codes_part(
        f"{down.path} (input codes)",
        values,
        costs.thresholds(down.bits, folded),
        is_float=float_up,
    )


def _attention(
    shape: ModelShape,
    attention: AttentionShape,
    floats: tuple[bool, bool, bool],
    *,
    float_context: bool,
) -> Iterator[OperationPart]:
    """Attention; `floats`: whether queries, keys and values are computed in floating point."""
    tokens, path = shape.tokens, attention.path
    bits, kv_bits = attention.bits, attention.key_value_bits
    values = tokens * attention.width
    scores = tokens * shape.length * attention.heads
    for name, code_bits, is_float in zip(
        ("query", "key", "value"), (bits, kv_bits, kv_bits), floats, strict=True
    ):
        yield codes_part(
            f"{path} ({name} codes)", values, costs.thresholds(code_bits), is_float=is_float
        )
    macs = scores * attention.head_dim
    yield product_part(f"{path} (scores)", "attention", macs, bits, kv_bits)
    yield from _score_estimator(shape, attention)
    yield from _softmax(attention, scores)
    yield product_part(f"{path} (context)", "attention", macs, bits, kv_bits)
    yield from _context_estimator(shape, attention)
    yield elementwise_part(
        f"{path} (context scale)",
        "epilogue",
        0,
        costs.MULTIPLY * values if float_context else 0,
        "read by an estimator" if float_context else "folded into the thresholds of the next codes",
    )


def _score_estimator(shape: ModelShape, attention: AttentionShape) -> Iterator[OperationPart]:
    rank, pairs = attention.score_rank, shape.tokens * shape.length
    if not rank:
        return
    if attention.hidden_size:
        # Four projections of the hidden states; their outer products are added to each head's.
        macs = 4 * shape.tokens * attention.hidden_size * rank + 2 * pairs * rank
        yield estimator_part(f"{attention.path}.shared_estimator (scores)", macs, f"rank {rank}")
        adds = costs.ADD * pairs * attention.heads
        yield elementwise_part(
            f"{attention.path} (estimated scores)", "estimator", 0, adds, "added in each head"
        )
        return
    macs = (2 * shape.tokens * attention.width + pairs * attention.heads) * rank
    yield estimator_part(f"{attention.path}.score_estimator", macs, f"rank {rank} a head")


def _context_estimator(shape: ModelShape, attention: AttentionShape) -> Iterator[OperationPart]:
    rank, mixed = attention.context_rank, shape.tokens * shape.length * attention.heads
    if not rank:
        return
    width = attention.width
    macs = (2 * shape.tokens * width + mixed) * rank
    name, note = "context_estimator", f"rank {rank} a head"
    if attention.hidden_size:
        macs = (shape.tokens * (attention.hidden_size + width) + mixed) * rank
        name, note = "shared_estimator (context)", f"rank {rank}"
    yield estimator_part(f"{attention.path}.{name}", macs, note)


def _softmax(attention: AttentionShape, scores: int) -> Iterator[OperationPart]:
    # One bit on both sides and nothing added: a score is one of head_dim + 1 integers.
    by_table = attention.bits == attention.key_value_bits == 1 and attention.score_rank == 0
    if attention.boolean:
        yield elementwise_part(
            f"{attention.path} (softmax)",
            "softmax",
            costs.SOFTMAX * scores,
            costs.FLOAT_OUTPUT * scores if attention.score_rank else 0,
            "Bi-Attention: scores are compared with 0",
        )
        yield codes_part(
            f"{attention.path} (probability codes)", scores, 1, is_float=attention.score_rank > 0
        )
        return
    yield elementwise_part(
        f"{attention.path} (softmax)",
        "softmax",
        costs.SOFTMAX * scores,
        (costs.TABLE_SOFTMAX if by_table else costs.SOFTMAX) * scores,
        f"exponentials from a table of {attention.head_dim + 1}" if by_table else "",
    )
    yield codes_part(
        f"{attention.path} (probability codes)",
        scores,
        costs.thresholds(attention.bits),
        is_float=not by_table,
    )


def _outside(shape: ModelShape) -> Iterator[OperationPart]:
    for part in shape.outside:
        values = part.rows * part.outputs
        if part.inputs == 0:
            flops = costs.LAYER_NORM * values
            yield elementwise_part(part.path, part.kind, flops, flops)
            continue
        yield product_part(part.path, part.kind, values * part.inputs, 32, 32)
        flops = costs.ADD * values if part.bias else 0
        note = "bias"
        if part.kind == "pooler":
            flops, note = flops + costs.TANH * values, "bias and tanh"
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
        if part.macs:
            if full and part.full_precision == 0:
                continue
            bits = "32x32" if full else part.bits
            macs[bits] = macs.get(bits, 0) + part.macs
        else:
            elementwise += part.full_precision if full else part.compressed
            comparisons += 0 if full else part.integer_comparisons
    return ExactCount(
        macs=macs, integer_comparisons=comparisons, elementwise_flops=int(elementwise)
    )
