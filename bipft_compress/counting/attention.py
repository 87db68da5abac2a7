"""Operations of attention, between the projections and the output."""

from __future__ import annotations

from collections.abc import Iterator

from bipft_compress.counting import costs
from bipft_compress.counting.parts import (
    FOLDED,
    codes_part,
    elementwise_part,
    estimator_part,
    original_part,
    product_part,
)
from bipft_compress.counting.schema import OperationPart
from bipft_compress.counting.shapes import LayerShape, ModelShape
from bipft_compress.nn.positions import relative_offsets
from bipft_compress.spec import AttentionSpec, RelativeSpec


def float_values(layer: LayerShape) -> dict[str, bool]:
    """Whether queries, keys, values and the context are computed in floating point.

    Returns:
        Of ``query``, ``key``, ``value`` and ``context``.
    """
    bits, rotary = layer.attention, layer.spec.attention.rotary
    from_heads = not bits.from_hidden
    numbers = {
        name: not layer.linears[f"attention.{name}"].folds
        for name in ("query", "key", "value", "output")
    }
    scored = bool(bits.score_rank and from_heads) or rotary is not None
    turned_values = rotary is not None and rotary.values
    return {
        "query": numbers["query"] or scored,
        "key": numbers["key"] or scored,
        "value": numbers["value"] or bool(bits.context_rank and from_heads) or turned_values,
        "context": numbers["output"] or bool(bits.context_rank),
    }


def attention_parts(
    shape: ModelShape, layer: LayerShape, floats: dict[str, bool]
) -> Iterator[OperationPart]:
    """Attention of one layer, once; `floats`: see `float_values`."""
    spec, bits, path = layer.spec.attention, layer.attention, _path(layer)
    scores = shape.pairs(spec.window) * spec.heads
    sizes = _sizes(shape, spec)
    yield from _rotary(spec, path, sizes)
    for name, code_bits in (
        ("query", bits.bits),
        ("key", bits.key_value_bits),
        ("value", bits.key_value_bits),
    ):
        comparisons = costs.thresholds(code_bits)
        yield codes_part(f"{path} ({name} codes)", sizes[name], comparisons, is_float=floats[name])
    macs = scores * spec.head_dim
    note = "" if spec.window is None else f"keys within {spec.window} of a query"
    yield product_part(f"{path} (scores)", "attention", macs, bits.bits, bits.key_value_bits, note)
    yield from _score_estimator(shape, layer)
    if spec.relative is not None:
        yield from _relative(shape, layer, spec.relative)
    if spec.position_bias:
        adds, by_table = costs.ADD * scores, _by_table(layer)
        note = "multiplied with the exponential of the score" if by_table else ""
        compressed = 0 if by_table else adds
        yield elementwise_part(f"{path} (position bias)", "positions", adds, compressed, note)
    yield from _softmax(layer, scores)
    yield product_part(f"{path} (context)", "attention", macs, bits.bits, bits.key_value_bits, note)
    yield from _context_estimator(shape, layer)
    is_float = floats["context"]
    yield elementwise_part(
        f"{path} (context scale)",
        "epilogue",
        0,
        costs.MULTIPLY * sizes["query"] if is_float else 0,
        "read by an estimator" if is_float else FOLDED,
    )


def _path(layer: LayerShape) -> str:
    return f"{layer.block}.attention.core"


def _sizes(shape: ModelShape, spec: AttentionSpec) -> dict[str, int]:
    """Numbers of the queries, keys and values of all tokens."""
    queries = shape.tokens * spec.heads * spec.head_dim
    keys = shape.tokens * spec.key_value_heads * spec.head_dim
    return {"query": queries, "key": keys, "value": keys}


def _rotary(spec: AttentionSpec, path: str, sizes: dict[str, int]) -> Iterator[OperationPart]:
    if spec.rotary is None:
        return
    names = ("query", "key", "value") if spec.rotary.values else ("query", "key")
    flops = costs.ROTARY * sum(sizes[name] for name in names)
    note = f"turns {', '.join(names)}"
    yield elementwise_part(f"{path} (rotary positions)", "positions", flops, flops, note)


def position_rows(relative: RelativeSpec, length: int) -> int:
    """Rows of the position tables that sequences of `length` tokens have distances for."""
    offsets = relative_offsets(relative, length)
    return int(offsets[-1] - offsets[0]) + 1


def _relative(
    shape: ModelShape, layer: LayerShape, relative: RelativeSpec
) -> Iterator[OperationPart]:
    """Disentangled positions: products with the rows for each distance, then a look-up."""
    spec, bits, path = layer.spec.attention, layer.attention, _path(layer)
    rows = position_rows(relative, shape.length)
    width = spec.heads * spec.head_dim
    scores = shape.pairs(spec.window) * spec.heads
    for exists, name, content_bits in (
        (relative.keys, "queries by position keys", bits.bits),
        (relative.queries, "keys by position queries", bits.key_value_bits),
    ):
        if not exists:
            continue
        yield original_part(
            f"{path} ({name}: projection)",
            "positions",
            rows * spec.width * width,
            "the original projects its table of distances in each forward pass; folded here",
        )
        note = f"{rows} distances"
        macs = shape.tokens * rows * width
        yield product_part(f"{path} ({name})", "attention", macs, content_bits, 1, note)
        yield elementwise_part(
            f"{path} ({name}: sum)",
            "positions",
            costs.ADD * scores,
            costs.FLOAT_OUTPUT * scores,
            "looked up by distance; scaled and added",
        )


def _score_estimator(shape: ModelShape, layer: LayerShape) -> Iterator[OperationPart]:
    spec, rank, path = layer.spec.attention, layer.attention.score_rank, _path(layer)
    pairs = shape.pairs(spec.window)
    if not rank:
        return
    if layer.attention.from_hidden:
        # Four projections of the hidden states; their outer products are added to each head's.
        macs = 4 * shape.tokens * spec.width * rank + 2 * pairs * rank
        yield estimator_part(f"{path}.shared_estimator (scores)", macs, f"rank {rank}")
        adds = costs.ADD * pairs * spec.heads
        yield elementwise_part(
            f"{path} (estimated scores)", "estimator", 0, adds, "added in each head"
        )
        return
    # Keys that several heads share are projected for each of them.
    macs = (2 * shape.tokens * spec.head_dim + pairs) * spec.heads * rank
    yield estimator_part(f"{path}.score_estimator", macs, f"rank {rank} a head")


def _context_estimator(shape: ModelShape, layer: LayerShape) -> Iterator[OperationPart]:
    spec, rank = layer.spec.attention, layer.attention.context_rank
    if not rank:
        return
    width, mixed = spec.heads * spec.head_dim, shape.pairs(spec.window) * spec.heads
    macs = (2 * shape.tokens * width + mixed) * rank
    name, note = "context_estimator", f"rank {rank} a head"
    if layer.attention.from_hidden:
        macs = (shape.tokens * (spec.width + width) + mixed) * rank
        name, note = "shared_estimator (context)", f"rank {rank}"
    yield estimator_part(f"{_path(layer)}.{name}", macs, note)


def _by_table(layer: LayerShape) -> bool:
    """Whether a score is one of head_dim + 1 integers, plus at most a bias by distance."""
    spec, bits = layer.spec.attention, layer.attention
    plain = bits.score_rank == 0 and spec.relative is None
    return plain and not bits.boolean and bits.bits == bits.key_value_bits == 1


def _softmax(layer: LayerShape, scores: int) -> Iterator[OperationPart]:
    spec, bits, path = layer.spec.attention, layer.attention, _path(layer)
    # Nothing is added to the integers of the product.
    plain = bits.score_rank == 0 and spec.relative is None and not spec.position_bias
    if bits.boolean:
        compressed = 0 if plain else costs.MULTIPLY
        if bits.score_rank:
            compressed += costs.ADD
        note, comparisons = "Bi-Attention: scores are compared with 0", 1
    elif _by_table(layer):
        compressed, comparisons = costs.TABLE_SOFTMAX, costs.thresholds(bits.bits)
        note = f"exponentials from a table of {spec.head_dim + 1}"
        if spec.position_bias:
            compressed = costs.BIASED_TABLE_SOFTMAX
            note += ", times one of distances"
    else:
        plain = False
        compressed, comparisons, note = costs.SOFTMAX, costs.thresholds(bits.bits), ""
    yield elementwise_part(
        f"{path} (softmax)", "softmax", costs.SOFTMAX * scores, compressed * scores, note
    )
    yield codes_part(f"{path} (probability codes)", scores, comparisons, is_float=not plain)
