"""Where the time of a packed model's forward pass goes, and how far it is from the limit.

Modules are timed inside the pass, so that their times and what lies between them add up to it. A
block is one operator: the products of its linears run again alone, on as many weights as the model
has, and those of attention are counted at their rate.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from bipft_compress import loading
from bipft_compress.benchmarking.peers import torch_call
from bipft_compress.benchmarking.timing import Call, interleaved, ratio, torch_threads
from bipft_compress.checkpoint.mark import read_recipe
from bipft_compress.counting import ModelShape, count_operations, read_shape
from bipft_compress.families import get_module
from bipft_compress.reporting import Profile
from bipft_compress.reporting.schema import STAGES
from bipft_compress.runtime.block import PackedBlock
from bipft_compress.runtime.model import Skeleton, empty_model
from bipft_compress.runtime.native import REFERENCE, kernels, register_rate
from bipft_compress.runtime.ops import prepare_weights, row_bytes


def packed_shape(directory: str | Path, batch: int, length: int) -> ModelShape:
    """The shape of a packed artefact, for `batch` sequences of `length` tokens.

    Raises:
        CheckpointError: not a packed artefact.
    """
    skeleton = Skeleton(empty_model(loading.load_config(directory)), read_recipe(Path(directory)))
    nn.Module.to(skeleton.model, "meta")
    return read_shape(skeleton.model, skeleton.encoder, batch, length)


def profile(
    model: nn.Module, shape: ModelShape, ids: Tensor, threads: int, rounds: int
) -> Profile | None:
    """Time the stages of a forward pass.

    Args:
        model: from a packed artefact.
        shape: of the model, for the batch and length of `ids`.
        ids: tokens, (batch, length), none of them padding.
        threads: that the model may use.
        rounds: passes; each is followed by its products alone and a measurement of the limit.

    Returns:
        None where a block runs on the reference: there is no limit to compare it with.
    """
    blocks = [get_module(model, layer.block) for layer in shape.layers]
    paths = {block.path for block in blocks if isinstance(block, PackedBlock)}
    if len(paths) != 1 or REFERENCE in paths:
        return None
    path, (linear, attention) = paths.pop(), _binary_macs(shape)
    macs, products = linear + attention, _products(shape, path)
    rates: list[float] = []
    groups = _groups(model, shape) | {"layers": blocks}
    with torch_threads(threads), _timed(model, groups) as stages:
        calls: dict[str, Call] = {
            "pass": torch_call(model, ids, torch.ones_like(ids)),
            "products": lambda: [product() for product in products],
            "limit": lambda: rates.append(register_rate(path, threads)),
        }
        for call in calls.values():
            call()
        for values in (rates, *stages.values()):
            values.clear()
        seconds = interleaved(calls, rounds, threads)
    whole = seconds["pass"]
    # A share is that of its round: the speed of a shared machine changes between rounds.
    shares = {name: ratio(values, whole) for name, values in stages.items()}
    inside = shares.pop("layers")
    # Alone, products of a few tokens may take longer than in their layer: each is a call.
    multiplied = min(ratio(seconds["products"], whole) * macs / linear, inside)
    shares |= {
        "linear": multiplied * linear / macs,
        "attention": multiplied * attention / macs,
        "rest": inside - multiplied,
        "outside": max(0.0, 1 - inside - sum(shares.values())),
    }
    reached = ratio([macs / rate / 1e9 for rate in rates], whole)
    milliseconds = 1e3 * statistics.median(whole)
    return Profile(
        milliseconds=milliseconds,
        stages={name: shares[name] * milliseconds for name in STAGES if name in shares},
        binary_macs=macs,
        limit_milliseconds=reached * milliseconds,
        reached=reached,
    )


def product_call(count: int, width: int, out: int, path: str) -> Call:
    """A binary product of random signs: `count` rows of `width` by `out` rows of weights.

    The kernel alone, on arrays that are there, as in a layer: the operator around it would take a
    small product several times as long.
    """
    activations = torch.randint(256, (count, row_bytes(width)), dtype=torch.uint8).numpy()
    bits = torch.randint(256, (out, -(-width // 8)), dtype=torch.uint8)
    weights = prepare_weights(bits, width, path).numpy()
    result = torch.empty(count, out, dtype=torch.int32).numpy()
    product = kernels().binary_product
    return lambda: product(activations, weights, width, result, path, torch.get_num_threads())


def _binary_macs(shape: ModelShape) -> tuple[int, int]:
    """Multiply-accumulates of one bit by one, in linears and in attention."""
    macs = {"linear": 0, "attention": 0}
    for part in count_operations(shape).parts:
        left, _, right = part.bits.partition("x")
        if part.kind in macs and right:
            macs[part.kind] += part.macs * int(left) * int(right)
    return macs["linear"], macs["attention"]


def _products(shape: ModelShape, path: str) -> list[Call]:
    """The products of all linears, one for each bit of the activations."""
    return [
        call
        for layer in shape.layers
        for linear, bits in layer.binary_linears()
        for call in [product_call(shape.tokens, linear.inputs, linear.outputs, path)]
        * (bits.bits * layer.calls)
    ]


def _groups(model: nn.Module, shape: ModelShape) -> dict[str, list[nn.Module]]:
    """Stage to its modules, for those outside the layers."""
    paths = {part.kind: part.path for part in shape.outside if part.kind == "pooler"}
    paths["embeddings"] = shape.tables[0].path
    return {kind: [get_module(model, _around(path, shape))] for kind, path in paths.items()}


def _around(path: str, shape: ModelShape) -> str:
    """The module that a part belongs to, or the part itself where that is the whole encoder."""
    owner = path.rpartition(".")[0]
    whole = not owner or shape.layers[0].path.startswith(f"{owner}.")
    return path if whole else owner


@contextmanager
def _timed(
    model: nn.Module, groups: Mapping[str, Sequence[nn.Module]]
) -> Iterator[dict[str, list[float]]]:
    """Seconds that groups of modules take together in each pass of `model`, by name."""
    seconds: dict[str, list[float]] = {name: [] for name in groups}

    def begin(*_: object) -> None:
        for values in seconds.values():
            values.append(0.0)

    def add(name: str, sign: int) -> Callable[..., None]:
        def hook(*_: object) -> None:
            seconds[name][-1] += sign * time.perf_counter()

        return hook

    handles = [model.register_forward_pre_hook(begin)]
    for name, modules in groups.items():
        for module in modules:
            handles.append(module.register_forward_pre_hook(add(name, -1)))
            handles.append(module.register_forward_hook(add(name, 1)))
    try:
        yield seconds
    finally:
        for handle in handles:
            handle.remove()
