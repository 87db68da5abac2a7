"""What an encoder layer takes on this machine's kernels, measured on a block of random numbers."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache

import torch

from bipft_compress.allocation.choose import Option
from bipft_compress.allocation.errors import Choice
from bipft_compress.allocation.measure import Part
from bipft_compress.counting.shapes import AttentionBits, LayerShape, LinearBits
from bipft_compress.errors import UserError
from bipft_compress.nn import BinaryAttention, BinaryLinear, Block
from bipft_compress.runtime.block import PackedBlock
from bipft_compress.runtime.modules import PackedAttention, PackedLinear
from bipft_compress.runtime.native import REFERENCE, chosen_path
from bipft_compress.spec import BlockSpec
from bipft_compress.storage.bits import pack_signs

ROUNDS = 7
"""Times a block is run; the shortest counts, as other work on the machine only adds."""


def layer_seconds(layer: LayerShape, length: int) -> float:
    """Seconds of a layer for one sequence, on the threads that torch has.

    Each layer of other bits or another geometry is measured once in a process.

    Args:
        layer: its description and bits.
        length: tokens of the sequence.

    Raises:
        UserError: the kernels are not there, or do not know a part of the layer.
    """
    bits = tuple(sorted(layer.linears.items()))
    return _seconds(
        layer.spec, bits, layer.attention, length, chosen_path(), torch.get_num_threads()
    )


def timed_options(part: Part, layer: LayerShape, length: int) -> tuple[Option, ...]:
    """A part's options with their seconds above those of the layer as it is.

    Each choice of bits is measured, and what a rank takes once: it is the same at all bits.

    Args:
        part: of the layer.
        layer: with the cheapest bits everywhere.
        length: tokens of the sequence.
    """

    def seconds(choice: Choice) -> float:
        return layer_seconds(part.at(layer, choice), length)

    now, most = layer_seconds(layer, length), max(choice.rank for choice in part.choices)
    # Of many bits, no linear folds with or without an estimator.
    finest = replace(part.choices[-1], rank=0)
    of_rank = (seconds(replace(finest, rank=most)) - seconds(finest)) / most if most else 0.0

    def of(choice: Choice) -> float:
        return seconds(replace(choice, rank=0)) - now + of_rank * choice.rank

    return tuple(
        replace(option, cost=replace(option.cost, seconds=layer.calls * of(choice)))
        for choice, option in zip(part.choices, part.options, strict=True)
    )


@cache
def _seconds(
    spec: BlockSpec,
    linears: tuple[tuple[str, LinearBits], ...],
    attention: AttentionBits,
    length: int,
    path: str,
    threads: int,
) -> float:
    block = _random_block(spec, dict(linears), attention)
    if path == REFERENCE or block.path == REFERENCE:
        raise UserError(
            "--target-latency-ms is measured on the compiled kernels, and none runs this model "
            "here: ask for --target-operations, or install where there is a C++17 compiler."
        )
    x = torch.randn(1, length, spec.hidden, generator=torch.Generator().manual_seed(0))
    heads = spec.attention
    bias = torch.zeros(heads.heads, 2 * length - 1) if heads.position_bias else None
    angle = torch.ones(1, length, heads.head_dim)
    rotary = (angle.cos(), angle.sin()) if heads.rotary else None
    taken = []
    for _ in range(1 + ROUNDS):  # the first one warms up
        start = time.perf_counter()
        block(x, bias=bias, rotary=rotary)
        taken.append(time.perf_counter() - start)
    return min(taken[1:])


def _random_block(
    spec: BlockSpec, linears: dict[str, LinearBits], attention: AttentionBits
) -> PackedBlock:
    """A packed block whose numbers have the sizes that fitted ones have."""
    generator = torch.Generator().manual_seed(0)
    block = Block(spec)
    for linear in spec.linears():
        bits = linears[linear.name]
        module = BinaryLinear(
            linear.inputs,
            linear.outputs,
            weight_bits=bits.weight_bits,
            bits=bits.bits,
            rank=bits.rank,
            dynamic_scale=bits.dynamic_scale,
        )
        shape = (bits.weight_bits, linear.outputs, -(-linear.inputs // 8))
        planes = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        signs = planes if bits.weight_bits > 1 else planes[0]
        block.set_linears({linear.name: PackedLinear(module, signs)})
    core = BinaryAttention(
        spec.attention,
        bits=attention.bits,
        key_value_bits=attention.key_value_bits,
        score_rank=attention.score_rank,
        context_rank=attention.context_rank,
        boolean=attention.boolean,
        from_hidden=attention.from_hidden,
    )
    tables = ("position_key", "position_query")
    signs_of = {
        name: pack_signs(torch.ones_like(table))
        for name in tables
        if (table := getattr(core, name)) is not None
    }
    block.attention.core = PackedAttention(core, signs_of)
    for parameter in block.parameters():
        parameter.data.uniform_(0.05, 0.25, generator=generator)
    return PackedBlock(block.requires_grad_(False).eval())
