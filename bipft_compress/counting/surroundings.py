"""What a model computes outside its blocks, found by running it on the meta device."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.fx.experimental import _config as torch_config
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from bipft_compress.errors import UnsupportedModelError
from bipft_compress.families import Encoder, get_module
from bipft_compress.families.family import norm_spec
from bipft_compress.nn import Affine, CompressedEmbedding, TiedDecoder
from bipft_compress.spec import NormSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FLOPS_A_MAC = 2
"""Of torch's counter: a multiply-accumulate is a multiplication and an addition."""


@dataclass(frozen=True)
class TableShape:
    """An embedding table.

    Attributes:
        path: from the model's root.
        width: of a row.
        rows: looked up in a forward pass.
        summed: whether its rows are added to those of the words.
        scaled: whether a row is decoded with a multiplication.
    """

    path: str
    width: int
    rows: int
    summed: bool
    scaled: bool


@dataclass(frozen=True)
class OutsideShape:
    """A module outside the blocks that computes, always in full precision.

    Attributes:
        path: from the model's root.
        kind: ``embeddings`` (before the first layer), ``pooler``, ``readout``, ``head``,
            ``layer_norm``, or ``kept`` (any other part of the encoder).
        values: numbers that it puts out.
        macs: multiply-accumulates of its products.
        bias: whether a bias is added.
        norm: its description, where it is a norm.
    """

    path: str
    kind: str
    values: int
    macs: int
    bias: bool
    norm: NormSpec | None


@dataclass
class _Pass:
    """A forward pass: what each module put out, and what ran before the first layer."""

    calls: dict[str, int] = field(default_factory=dict)
    values: dict[str, int] = field(default_factory=dict)
    before_layers: set[str] = field(default_factory=set)
    flops: dict[str, int] = field(default_factory=dict)
    in_layers: bool = False


def read_surroundings(
    model: PreTrainedModel, encoder: Encoder, batch: int, length: int
) -> tuple[tuple[TableShape, ...], tuple[OutsideShape, ...]]:
    """Embedding tables, and the modules outside the blocks that a forward pass reaches.

    Args:
        model: after `structure.swap`, all of it on the meta device.
        encoder: the parts of `model`.
        batch: sequences.
        length: tokens of a sequence.

    Raises:
        UnsupportedModelError: the model does not run on token ids alone.
    """
    forward = _run(model, encoder, batch, length)
    tables = _tables(model, encoder, forward, batch * length)
    return tables, tuple(_outside(model, encoder, forward))


def _tables(
    model: PreTrainedModel, encoder: Encoder, forward: _Pass, tokens: int
) -> tuple[TableShape, ...]:
    tables = []
    beside_words = encoder.word_embeddings.rpartition(".")[0]
    for path in (encoder.word_embeddings, *encoder.embeddings_kept):
        module: Any = get_module(model, path)
        # Positions are the same for every sequence of a batch, but are decoded for each.
        summed = path.rpartition(".")[0] == beside_words
        values = forward.values.get(path, 0)
        rows = tokens * forward.calls.get(path, 0) if summed else values // module.embedding_dim
        scaled = isinstance(module, CompressedEmbedding) or parametrize.is_parametrized(module)
        tables.append(TableShape(path, module.embedding_dim, rows, summed, scaled))
    return tuple(tables)


def _outside(model: PreTrainedModel, encoder: Encoder, forward: _Pass) -> Iterator[OutsideShape]:
    base = model.base_model
    in_base = {id(module) for module in base.modules()}
    alternatives = tuple(_alternatives(model))
    for path, values in forward.values.items():
        module = get_module(model, path)
        macs, norm = forward.flops.get(path, 0) // FLOPS_A_MAC, _norm(module)
        if not (macs or norm) or path.startswith(alternatives):
            continue
        if path == encoder.pooler:
            kind = "pooler"
            # Where a head reads a mean, the pooler runs again, and its first result is not read.
            calls = forward.calls[path]
            values, macs = values // calls, macs // calls
        elif encoder.readout is not None and path.startswith(f"{encoder.readout}."):
            kind = "readout"
        elif id(module) not in in_base:
            kind = "head"
        elif path in forward.before_layers:
            kind = "embeddings"
        else:
            kind = "kept" if norm is None else "layer_norm"
        adds = isinstance(module, (nn.Linear, nn.Conv1d, TiedDecoder))
        bias = adds and getattr(module, "bias", None) is not None
        yield OutsideShape(path, kind, values, macs, bias, norm)


def _alternatives(model: nn.Module) -> Iterator[str]:
    """Prefixes of modules of which a token passes one only (X-MOD's languages): all but the first.

    On the meta device, every token seems to pass each of them.
    """
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleDict):
            yield from (f"{path}.{name}." for name in list(module)[1:])


def _norm(module: nn.Module) -> NormSpec | None:
    """The description of a norm, torch's or transformers'; None for any other module."""
    if isinstance(module, nn.RMSNorm):
        return NormSpec(module.normalized_shape[-1], module.eps or 0.0, "rms", bias=False)
    named = isinstance(module, (nn.LayerNorm, Affine)) or type(module).__name__.endswith("Norm")
    has_gain = isinstance(getattr(module, "weight", None), nn.Parameter)
    return norm_spec(module) if named and has_gain else None


def _run(model: PreTrainedModel, encoder: Encoder, batch: int, length: int) -> _Pass:
    """One forward pass of `batch` sequences of `length` tokens."""
    ids = torch.zeros(batch, length, dtype=torch.long, device="meta")
    inputs = {"input_ids": ids}
    if "lang_ids" in inspect.signature(model.forward).parameters:
        # X-MOD: without a default language in its configuration, it must be told one.
        inputs["lang_ids"] = torch.zeros(batch, dtype=torch.long, device="meta")
    errors = []
    # Multiple-choice models want (batch, choices, length): counted for one choice.
    for shaped in (ids, ids.unsqueeze(1)):
        try:
            return _watched(model, encoder, inputs | {"input_ids": shaped})
        except (RuntimeError, ValueError, TypeError) as error:
            errors.append(error)
    raise UnsupportedModelError(
        f"{type(model).__name__} does not run on token ids alone ({errors[0]}), so its operations "
        "cannot be counted; report on the encoder without its head."
    )


def _watched(model: PreTrainedModel, encoder: Encoder, inputs: dict[str, Tensor]) -> _Pass:
    forward = _Pass()
    blocks = tuple(f"{layer.block}." for layer in encoder.layers)

    def record(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            forward.calls[path] = forward.calls.get(path, 0) + 1
            # Of what is no single tensor, only the products of the module itself matter.
            size = output.numel() if isinstance(output, Tensor) else 0
            forward.values[path] = forward.values.get(path, 0) + size
            if not forward.in_layers:
                forward.before_layers.add(path)

        return hook

    def enter_layers(module: nn.Module, args: Any) -> None:
        forward.in_layers = True

    handles = [
        module.register_forward_hook(record(path))
        for path, module in model.named_modules()
        if path and not f"{path}.".startswith(blocks)
    ]
    for layer in encoder.layers:
        handles.append(get_module(model, layer.block).register_forward_pre_hook(enter_layers))
    try:
        # Without gradients, torch's counter fails on modules that are given a parameter.
        with (
            torch.enable_grad(),
            torch_config.patch(meta_nonzero_assume_all_nonzero=True),  # type: ignore[attr-defined]
            FlopCounterMode(display=False) as counter,
            _ZeroForData(),  # type: ignore[no-untyped-call]
        ):
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    forward.flops = _flops_by_module(model, counter)
    return forward


class _ZeroForData(TorchDispatchMode):
    """Whatever asks for a number of a meta tensor, as checks of masks do, is told 0."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return 0
        return func(*args, **(kwargs or {}))


def _flops_by_module(model: nn.Module, counter: FlopCounterMode) -> dict[str, int]:
    """Path of a module to the FLOPs of its own products, those of its children left out."""
    root = type(model).__name__
    totals = {
        name.removeprefix(root): sum(counts.values())
        for name, counts in counter.get_flop_counts().items()
        if name.partition(".")[0] == root
    }
    products = dict(totals)
    for path, total in totals.items():
        parent = path
        while parent:
            # A list of modules is never called, so that it has no entry.
            parent = parent.rpartition(".")[0]
            if parent in products:
                products[parent] -= total
                break
    # Hooks run their modules after the one they belong to, which has fewer FLOPs than these then.
    return {path.removeprefix("."): max(flops, 0) for path, flops in products.items()}
