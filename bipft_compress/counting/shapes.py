"""What there is to count: the shape of a binary model, read from its modules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bipft_compress.convert.attach import attached
from bipft_compress.errors import UnsupportedModelError
from bipft_compress.families import Encoder, get_module
from bipft_compress.nn import BinaryAttention, BinaryLinear, CompressedEmbedding, TiedDecoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class LinearShape:
    """A binary linear layer; `bits` are those of its input."""

    path: str
    inputs: int
    outputs: int
    bits: int
    rank: int


@dataclass(frozen=True)
class AttentionShape:
    """A binary attention."""

    path: str
    heads: int
    head_dim: int
    bits: int
    key_value_bits: int
    score_rank: int
    context_rank: int
    boolean: bool = False
    """Bi-Attention, without softmax."""
    hidden_size: int = 0
    """Width of the hidden states, where the estimators read them; 0 where they read heads."""

    @property
    def width(self) -> int:
        """Width of all heads together."""
        return self.heads * self.head_dim


@dataclass(frozen=True)
class LayerShape:
    """An encoder layer; `linears` by kind, `norms` by path with their widths."""

    path: str
    linears: dict[str, LinearShape]
    attention: AttentionShape
    norms: dict[str, int]


@dataclass(frozen=True)
class TableShape:
    """An embedding table; `scaled` where a row is decoded with a multiplication."""

    path: str
    width: int
    scaled: bool


@dataclass(frozen=True)
class OutsideShape:
    """A module outside the encoder layers that computes: `rows` outputs of width `outputs`.

    `inputs` is 0 for a LayerNorm; `kind` is ``embeddings``, ``pooler`` or ``head``.
    """

    path: str
    kind: str
    inputs: int
    outputs: int
    rows: int
    bias: bool


@dataclass(frozen=True)
class ModelShape:
    """Everything the counts depend on, for `batch` sequences of `length` tokens."""

    batch: int
    length: int
    activation: str
    tables: tuple[TableShape, ...]
    layers: tuple[LayerShape, ...]
    outside: tuple[OutsideShape, ...]

    @property
    def tokens(self) -> int:
        """Tokens of all sequences."""
        return self.batch * self.length

    def without_estimators(self) -> ModelShape:
        """The same model with every estimator left out."""
        layers = tuple(
            replace(
                layer,
                linears={k: replace(linear, rank=0) for k, linear in layer.linears.items()},
                attention=replace(layer.attention, score_rank=0, context_rank=0),
            )
            for layer in self.layers
        )
        return replace(self, layers=layers)

    def without_heads(self) -> ModelShape:
        """The encoder alone."""
        return replace(self, outside=tuple(part for part in self.outside if part.kind != "head"))


def read_shape(model: PreTrainedModel, encoder: Encoder, batch: int, length: int) -> ModelShape:
    """The shape of a swapped model on the meta device.

    Args:
        model: after `convert.swap`, all of it on the meta device; it is run once, which costs
            nothing there and tells how often each module outside the encoder layers is used.
        encoder: the parts of `model`.
        batch: sequences.
        length: tokens of a sequence.

    Raises:
        UnsupportedModelError: the model does not run on token ids alone.
    """
    return ModelShape(
        batch=batch,
        length=length,
        activation=encoder.activation,
        tables=_tables(model, encoder),
        layers=tuple(_layer(model, encoder, index) for index in range(len(encoder.layers))),
        outside=_outside(model, encoder, batch, length),
    )


def _tables(model: PreTrainedModel, encoder: Encoder) -> tuple[TableShape, ...]:
    tables = []
    for path in (encoder.word_embeddings, *encoder.embeddings_kept):
        module = get_module(model, path)
        width: Any = module.embedding_dim
        scaled = isinstance(module, CompressedEmbedding) or parametrize.is_parametrized(module)
        tables.append(TableShape(path, width, scaled))
    return tuple(tables)


def _layer(model: PreTrainedModel, encoder: Encoder, index: int) -> LayerShape:
    parts = encoder.layers[index]
    linears = {}
    for kind, path in parts.linears.items():
        linear = get_module(model, path)
        assert isinstance(linear, BinaryLinear)
        linears[kind] = LinearShape(
            path, linear.in_features, linear.out_features, linear.bits, linear.rank
        )
    norms = {
        f"{parts.path}.{name}": _norm_width(module)
        for name, module in get_module(model, parts.path).named_modules()
        if isinstance(module, nn.LayerNorm)
    }
    attention = _attention(parts.attention, attached(model, encoder, index))
    return LayerShape(parts.path, linears, attention, norms)


def _attention(path: str, module: BinaryAttention) -> AttentionShape:
    scores, context, shared = (
        module.score_estimator,
        module.context_estimator,
        module.shared_estimator,
    )
    score_rank = 0 if scores is None else scores.rank
    context_rank = 0 if context is None else context.rank
    if shared is not None:
        score_rank, context_rank = shared.score_rank, shared.context_rank
    return AttentionShape(
        path=path,
        heads=module.heads,
        head_dim=module.head_dim,
        bits=module.bits,
        key_value_bits=module.key_value_bits,
        score_rank=score_rank,
        context_rank=context_rank,
        boolean=module.boolean,
        hidden_size=0 if shared is None else shared.hidden_size,
    )


def _norm_width(norm: nn.LayerNorm) -> int:
    return torch.Size(norm.normalized_shape).numel()


def _outside(
    model: PreTrainedModel, encoder: Encoder, batch: int, length: int
) -> tuple[OutsideShape, ...]:
    inner = tuple(f"{layer.path}." for layer in encoder.layers)
    watched: dict[str, nn.Module] = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.LayerNorm, TiedDecoder)) and not path.startswith(inner)
    }
    base = model.base_model
    in_base = {id(module) for module in base.modules()}
    sizes = _output_sizes(model, watched, batch, length)
    shapes = []
    for path, size in sizes.items():
        module = watched[path]
        if path == encoder.pooler:
            kind = "pooler"
        else:
            kind = "embeddings" if id(module) in in_base else "head"
        inputs, outputs = _widths(module)
        bias = getattr(module, "bias", None) is not None
        shapes.append(OutsideShape(path, kind, inputs, outputs, size // outputs, bias))
    return tuple(shapes)


def _widths(module: nn.Module) -> tuple[int, int]:
    if isinstance(module, nn.LayerNorm):
        return 0, _norm_width(module)
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    weight = module.weight
    assert isinstance(weight, Tensor)
    outputs, inputs = weight.shape
    return inputs, outputs


def _output_sizes(
    model: PreTrainedModel, watched: dict[str, nn.Module], batch: int, length: int
) -> dict[str, int]:
    """Numbers that each of `watched` puts out, those left out that a forward never reaches."""
    sizes: dict[str, int] = {}

    def hook(path: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def record(module: nn.Module, inputs: Any, output: Tensor) -> None:
            sizes[path] = sizes.get(path, 0) + output.numel()

        return record

    handles = [module.register_forward_hook(hook(path)) for path, module in watched.items()]
    try:
        ids = torch.zeros(batch, length, dtype=torch.long, device="meta")
        with torch.no_grad():
            try:
                model(input_ids=ids)
            except RuntimeError:
                # Multiple-choice models want (batch, choices, length): counted for one choice.
                sizes.clear()
                model(input_ids=ids.unsqueeze(1))
    except (RuntimeError, ValueError, TypeError) as error:
        raise UnsupportedModelError(
            f"{type(model).__name__} does not run on token ids alone ({error}), so its operations "
            "cannot be counted; report on the encoder without its head."
        ) from None
    finally:
        for handle in handles:
            handle.remove()
    return sizes
