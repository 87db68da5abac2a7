"""Where the time of a packed model's forward pass goes, and how far it is from the limit.

Modules are timed inside the pass, so that their times and what lies between them add up to it. A
layer is one operator: the products of its linears run again alone, on as many weights as the model
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

from bipft_compress import checkpoint
from bipft_compress.benchmarking.peers import torch_call
from bipft_compress.benchmarking.timing import Call, interleaved, ratio, torch_threads
from bipft_compress.counting import ModelShape, read_shape
from bipft_compress.families import get_module
from bipft_compress.reporting import Profile
from bipft_compress.reporting.schema import STAGES
from bipft_compress.runtime.artefact import read_recipe
from bipft_compress.runtime.layer import CompiledLayer
from bipft_compress.runtime.model import Skeleton
from bipft_compress.runtime.native import kernels, register_rate
from bipft_compress.runtime.ops import prepare_weights, row_bytes


def packed_shape(directory: str | Path, batch: int, length: int) -> ModelShape:
    """The shape of a packed artefact, for `batch` sequences of `length` tokens.

    Raises:
        CheckpointError: not a packed artefact.
    """
    skeleton = Skeleton(checkpoint.load_config(directory), read_recipe(Path(directory)))
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
        None where a layer runs on the reference: there is no limit to compare it with.
    """
    layers = [get_module(model, f"{layer.path}.packed") for layer in shape.layers]
    first = layers[0]
    if not isinstance(first, CompiledLayer):
        return None
    path, (linear, attention) = first.path, _binary_macs(shape)
    macs, products = linear + attention, _products(shape, path)
    rates: list[float] = []
    with torch_threads(threads), _timed(_groups(model, shape) | {"layers": layers}) as stages:
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
    linear = sum(
        shape.tokens * linear.inputs * linear.outputs * linear.bits
        for layer in shape.layers
        for linear in layer.linears.values()
    )
    attention = sum(
        2 * shape.tokens * shape.length * part.width * part.bits * part.key_value_bits
        for part in (layer.attention for layer in shape.layers)
    )
    return linear, attention


def _products(shape: ModelShape, path: str) -> list[Call]:
    """The products of all linears, one for each bit of the activations."""
    return [
        call
        for layer in shape.layers
        for linear in layer.linears.values()
        for call in [product_call(shape.tokens, linear.inputs, linear.outputs, path)] * linear.bits
    ]


def _groups(model: nn.Module, shape: ModelShape) -> dict[str, list[nn.Module]]:
    """Stage to its modules, for those outside the layers."""
    paths = {part.kind: part.path for part in shape.outside if part.kind == "pooler"}
    paths["embeddings"] = shape.tables[0].path
    return {kind: [get_module(model, path.rpartition(".")[0])] for kind, path in paths.items()}


@contextmanager
def _timed(groups: Mapping[str, Sequence[nn.Module]]) -> Iterator[dict[str, list[float]]]:
    """Seconds that groups of modules take together in each pass, by name."""
    seconds: dict[str, list[float]] = {name: [] for name in groups}

    def starts(name: str, *, first: bool) -> Callable[..., None]:
        def hook(*_: object) -> None:
            if first:
                seconds[name].append(0.0)
            seconds[name][-1] -= time.perf_counter()

        return hook

    def ends(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            seconds[name][-1] += time.perf_counter()

        return hook

    handles = []
    for name, modules in groups.items():
        for module in modules:
            before = starts(name, first=module is modules[0])
            handles.append(module.register_forward_pre_hook(before))
            handles.append(module.register_forward_hook(ends(name)))
    try:
        yield seconds
    finally:
        for handle in handles:
            handle.remove()
