"""Compiles a packed block for the kernels: one buffer that `torch.ops` can take as a tensor.

The kernels' compiler reads the tensors of a block by their own names, and its description by the
names of `spec`. It refuses a tensor that it does not know: nothing of a block is left out unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from bipft_compress.nn import BinaryAttention, Block
from bipft_compress.runtime.folding import Intervals, fold
from bipft_compress.runtime.modules import PackedLinear
from bipft_compress.runtime.native import kernels
from bipft_compress.spec import BlockSpec

_CORE = "attention.core"


def compile_block(block: Block, path: str) -> Tensor | None:
    """The buffer that ``torch.ops.bipft_compress.encoder_block`` runs.

    Args:
        block: of packed modules, in fp32, on the CPU.
        path: the processor to compile it for; see `native.paths`; not the reference.

    Returns:
        uint8, (bytes,), or None where the kernels cannot run this block: estimators that the heads
        share, an activation function that they do not know and that cannot be folded, a linear
        layer or an attention in full precision, or a width beyond their counters.
    """
    core = block.attention.core
    linears = _packed_linears(block)
    if linears is None or not isinstance(core, BinaryAttention) or _too_wide(block.spec):
        return None
    if core.shared_estimator is not None:
        return None
    folded = _fold(block, core, linears)
    known = kernels().activation_names()
    for number, part in enumerate(block.spec.feed_forward):
        if part.activation not in known and f"feed_forward.{number}.up" not in folded:
            return None
    arrays = {name: tensor.contiguous().numpy() for name, tensor in _tensors(block, core, folded)}
    description = dict(_flatten("", asdict(block.spec)))
    for linear in block.spec.linears():
        description |= _linear_sizes(linear.name, linears[linear.name])
    for name in ("bits", "key_value_bits", "boolean"):
        description[f"{_CORE}.{name}"] = getattr(core, name)
    return torch.from_numpy(kernels().compile_block(arrays, description, path))


def compile_linear(linear: PackedLinear, path: str) -> Tensor:
    """The buffer that ``torch.ops.bipft_compress.binary_linear`` runs.

    Args:
        linear: in fp32, on the CPU; at most 65,534 wide.
        path: the processor to compile it for; see `native.paths`; not the reference.

    Returns:
        uint8, (bytes,).
    """
    name = "linear"
    tensors = {f"{name}.{part}": _readable(tensor) for part, tensor in linear.state_dict().items()}
    arrays = {part: tensor.contiguous().numpy() for part, tensor in tensors.items()}
    return torch.from_numpy(kernels().compile_linear(arrays, _linear_sizes(name, linear), path))


def _linear_sizes(name: str, linear: PackedLinear) -> dict[str, float | str]:
    return {
        f"{name}.inputs": linear.in_features,
        f"{name}.outputs": linear.out_features,
        f"{name}.bits": linear.bits,
        f"{name}.weight_bits": linear.weight_bits,
        f"{name}.dynamic_scale": linear.dynamic_scale,
    }


def _packed_linears(block: Block) -> dict[str, PackedLinear] | None:
    """The linear layers by path below the block, or None where one is not packed."""
    linears = {}
    for linear in block.spec.linears():
        module = block.get_submodule(linear.name)
        if not isinstance(module, PackedLinear):
            return None
        linears[linear.name] = module
    return linears


def _too_wide(spec: BlockSpec) -> bool:
    widths = [width for linear in spec.linears() for width in (linear.inputs, linear.outputs)]
    widest: int = kernels().WIDEST
    return max(widths) > widest


def _tensors(
    block: Block, core: BinaryAttention, folded: dict[str, Intervals]
) -> Iterator[tuple[str, Tensor]]:
    """What the kernels read: numbers in fp32, bits, and intervals in place of what they hold."""
    held = {f"{name}.{part}" for name in folded for part in ("weight_scale", "bias")}
    # A scale of probabilities is what a step of their codes is worth.
    tensors = block.state_dict() | {f"{_CORE}.probability_scale": core.probability_step.detach()}
    for name in tensors.keys() - held:
        yield name, _readable(tensors[name])
    for name, intervals in folded.items():
        for part, tensor in intervals._asdict().items():
            yield f"{name}.{part}", tensor


def _readable(tensor: Tensor) -> Tensor:
    """Numbers in fp32; bits as they are."""
    return tensor.float() if tensor.is_floating_point() else tensor


def _flatten(name: str, part: Any) -> Iterator[tuple[str, float | str]]:
    """Every number and word of a description by its path; what is None is left out."""
    if isinstance(part, dict):
        for key, value in part.items():
            yield from _flatten(f"{name}.{key}" if name else key, value)
    elif isinstance(part, (tuple, list)):
        yield from _flatten(name, {str(index): value for index, value in enumerate(part)})
    elif part is not None:
        yield name, part


def _fold(
    block: Block, core: BinaryAttention, linears: dict[str, PackedLinear]
) -> dict[str, Intervals]:
    """Path of a linear layer to its intervals, for those that can be folded."""
    folded = {}
    for name, threshold, activate in _read_as_signs(block, core, linears):
        linear = linears[name]
        most = linear.in_features * (2**linear.weight_bits - 1)
        # Each popcount must mean the same output for every token.
        fixed = linear.estimator is None and linear.dynamic_scale == "none"
        if linear.bits != 1 or not fixed or most > kernels().WIDEST:
            continue
        scale = linear.activation_scale * linear.weight_scale
        intervals = fold(scale.detach(), linear.bias.detach(), most, threshold.detach(), activate)
        if intervals is not None:
            folded[name] = intervals
    return folded


def _read_as_signs(
    block: Block, core: BinaryAttention, linears: dict[str, PackedLinear]
) -> Iterator[tuple[str, Tensor, Callable[[Tensor], Tensor] | None]]:
    """Linear layers of whose outputs only the signs are read: path, threshold, what they pass."""
    rotary = block.spec.attention.rotary
    if core.score_estimator is None and rotary is None:
        if core.bits == 1:
            yield "attention.query", core.query_shift.flatten(), None
        if core.key_value_bits == 1:
            yield "attention.key", core.key_shift.flatten(), None
    turned = rotary is not None and rotary.values
    if core.context_estimator is None and core.key_value_bits == 1 and not turned:
        yield "attention.value", core.value_shift.flatten(), None
    for number, part in enumerate(block.spec.feed_forward):
        down = linears[f"feed_forward.{number}.down"]
        if (
            not part.gated
            and down.bits == 1
            and down.estimator is None
            and down.dynamic_scale == "none"
        ):
            activate: Any = block.feed_forward[number].activation
            yield f"feed_forward.{number}.up", down.shift, activate
