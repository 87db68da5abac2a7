"""Operations of an encoder block outside its attention: linears, feed-forward networks and norms.

What stays in floating point in a fused 1-bit runtime: a value that is only ever read by a
binarizer needs none, because scale, bias, activation function and threshold fold into an integer
comparison of the accumulator. A value that an estimator, a rotation, a gate, a norm, a residual or
a softmax reads is computed in floating point, and coding it then costs float comparisons.
"""

from __future__ import annotations

from collections.abc import Iterator

from bipft_compress.counting import costs
from bipft_compress.counting.attention import attention_parts, float_values
from bipft_compress.counting.parts import (
    FOLDED,
    codes_part,
    elementwise_part,
    estimator_part,
    product_part,
    repeated,
)
from bipft_compress.counting.schema import OperationPart
from bipft_compress.counting.shapes import LayerShape, LinearBits, ModelShape
from bipft_compress.spec import LinearSpec

RESIDUAL_SUMS = ("attention_output", "ffn_down")
"""Kinds of linear whose output is added to the residual stream."""


def block_parts(shape: ModelShape, layer: LayerShape) -> Iterator[OperationPart]:
    """Everything that the block of a layer computes in a forward pass, all its calls together."""
    for part in _once(shape, layer):
        yield repeated(part, layer.calls)


def _once(shape: ModelShape, layer: LayerShape) -> Iterator[OperationPart]:
    floats = float_values(layer)
    for linear, bits in layer.binary_linears():
        path = f"{layer.block}.{linear.name}"
        is_float = True
        match linear.kind:
            case "query" | "key" | "value":
                is_float = floats[linear.kind]
                yield _float_codes(shape, path, linear, bits)
            case "attention_output":
                yield from attention_parts(shape, layer, floats)
                yield codes_part(
                    f"{path} (input codes)",
                    shape.tokens * linear.inputs,
                    costs.thresholds(bits.bits),
                    is_float=floats["context"],
                )
            case "ffn_up" | "ffn_gate":
                is_float = _float_inner(layer, linear)
                yield _float_codes(shape, path, linear, bits)
            case "ffn_down":
                yield from _activation(shape, layer, linear, bits)
            case _:
                yield _float_codes(shape, path, linear, bits)
        yield from _magnitudes(shape, path, linear, bits)
        yield from _linear(shape, path, linear, bits, is_float=is_float)
        if linear.kind in RESIDUAL_SUMS or linear.name == "bottleneck.output":
            adds = costs.ADD * shape.tokens * linear.outputs
            yield elementwise_part(f"{path} (residual add)", "epilogue", adds, adds)
    for name, norm in layer.spec.norms().items():
        flops = costs.norm(norm) * shape.tokens * norm.width
        yield elementwise_part(f"{layer.block}.{name}", "layer_norm", flops, flops)


def _float_codes(
    shape: ModelShape, path: str, linear: LinearSpec, bits: LinearBits
) -> OperationPart:
    """Codes of the residual stream, which is in floating point; each linear has its own."""
    values, comparisons = shape.tokens * linear.inputs, costs.thresholds(bits.bits)
    return codes_part(f"{path} (input codes)", values, comparisons, is_float=True)


def _magnitudes(
    shape: ModelShape, path: str, linear: LinearSpec, bits: LinearBits
) -> Iterator[OperationPart]:
    """What scales the codes of each token, where anything does: found, and multiplied back."""
    if bits.dynamic_scale == "none":
        return
    flops = costs.TOKEN_MAGNITUDE[bits.dynamic_scale] * shape.tokens * linear.inputs
    flops += costs.MULTIPLY * shape.tokens * linear.outputs
    yield elementwise_part(f"{path} (token magnitudes)", "thresholds", 0, flops)


def _linear(
    shape: ModelShape, path: str, linear: LinearSpec, bits: LinearBits, *, is_float: bool
) -> Iterator[OperationPart]:
    """A linear layer; `is_float`: whether anything but a binarizer reads its output."""
    tokens = shape.tokens
    macs = tokens * linear.inputs * linear.outputs
    yield product_part(path, "linear", macs, bits.bits, bits.weight_bits)
    if bits.rank:
        macs = tokens * bits.rank * (linear.inputs + linear.outputs)
        yield estimator_part(f"{path}.estimator", macs, f"rank {bits.rank}")
    values = tokens * linear.outputs
    yield elementwise_part(
        f"{path} (scale and bias)",
        "epilogue",
        costs.ADD * values if linear.bias else 0,
        costs.FLOAT_OUTPUT * values if is_float else 0,
        "" if is_float else FOLDED,
    )


def _network(linear: LinearSpec) -> tuple[str, int]:
    """Name and number of the feed-forward network that a linear belongs to."""
    name = linear.name.rpartition(".")[0]
    return name, int(name.rpartition(".")[2])


def _float_inner(layer: LayerShape, linear: LinearSpec) -> bool:
    """Whether a feed-forward network's inner values are computed in floating point."""
    name, number = _network(linear)
    up, down = (layer.linears[f"{name}.{part}"] for part in ("up", "down"))
    return layer.spec.feed_forward[number].gated or not (up.folds and down.folds)


def _activation(
    shape: ModelShape, layer: LayerShape, down: LinearSpec, bits: LinearBits
) -> Iterator[OperationPart]:
    """Activation function, gate, and the codes that `down` reads."""
    name, number = _network(down)
    network, values = layer.spec.feed_forward[number], shape.tokens * down.inputs
    flops = costs.activation(network.activation)
    note = FOLDED
    if network.gated:
        flops, note = flops + costs.MULTIPLY, "and the product with the gate"
    elif not bits.folds:
        note = "read by the estimator" if bits.rank else "read by the token magnitudes"
    is_computed = network.gated or not bits.folds
    yield elementwise_part(
        f"{layer.block}.{name} ({network.activation})",
        "activation",
        flops * values,
        flops * values if is_computed else 0,
        note,
    )
    yield codes_part(
        f"{layer.block}.{down.name} (input codes)",
        values,
        costs.thresholds(bits.bits, None if is_computed else network.activation),
        is_float=_float_inner(layer, down),
    )
