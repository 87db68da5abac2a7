"""What every choice of bits and rank costs, and the error that it leaves at the network's end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bipft_compress.allocation.choose import Cost, Option
from bipft_compress.allocation.errors import (
    Choice,
    attention_errors,
    embedding_errors,
    linear_errors,
)
from bipft_compress.allocation.sensitivity import sensitivities
from bipft_compress.allocation.shares import LEFT, left_of_linear
from bipft_compress.counting.blocks import block_parts
from bipft_compress.counting.memory import packed
from bipft_compress.counting.shapes import LayerShape, ModelShape
from bipft_compress.families import Encoder, EncoderLayer, get_module
from bipft_compress.fitting.attention import AttentionSample
from bipft_compress.fitting.layerwise import Call, LayerwiseRunner
from bipft_compress.nn import FullAttention
from bipft_compress.recipe import Recipe
from bipft_compress.spec import LinearSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Part:
    """Modules whose bits are chosen together.

    Attributes:
        name: a recipe's pattern for its modules, which is also shown.
        modules: paths of linear layers that read the same input; or of one attention, or of the
            word embeddings.
        kind: ``linear``, ``attention`` or ``embedding``.
        choices: of bits and rank.
        options: error and cost of each choice, without seconds.
        layer: number of the layer that they are in, and the names of the linears in its block;
            None for the embeddings, which are in none.
    """

    name: str
    modules: tuple[str, ...]
    kind: str
    choices: tuple[Choice, ...]
    options: tuple[Option, ...]
    layer: int | None = None
    linears: tuple[str, ...] = ()

    def at(self, layer: LayerShape, choice: Choice) -> LayerShape:
        """The part's layer with a choice's bits in the part."""
        if self.kind == "attention":
            return _with_attention(layer, choice)
        return _with_linears(layer, self.linears, choice)


def _with_linears(layer: LayerShape, names: Iterable[str], choice: Choice) -> LayerShape:
    bits = {
        name: replace(
            layer.linears[name],
            bits=choice.activations,
            weight_bits=choice.weights,
            dynamic_scale=choice.dynamic_scale,
            rank=choice.rank,
        )
        for name in names
    }
    return replace(layer, linears=layer.linears | bits)


def _with_attention(layer: LayerShape, choice: Choice) -> LayerShape:
    bits = replace(layer.attention, bits=choice.activations, key_value_bits=choice.activations)
    return replace(layer, attention=bits)


def measure(
    teacher: PreTrainedModel,
    encoder: Encoder,
    shape: ModelShape,
    batches: Sequence[Tensor],
    frequencies: Tensor,
    recipe: Recipe,
) -> list[Part]:
    """Error and cost of every choice, for every part of a model.

    Args:
        teacher: in full precision, with blocks.
        encoder: its parts.
        shape: of the binary model, at any bits.
        batches: token ids, each (sequences, length), without padding.
        frequencies: of the words, summing to one; see `embedding_errors`.
        recipe: for its ridge, and the bits of an estimator's numbers.
    """
    words = encoder.word_embeddings
    linears = [path for layer in encoder.layers for path, _ in layer.linears()]
    attentions = [layer.attention for layer in encoder.layers]
    sensitivity = sensitivities(teacher, [words, *linears, *attentions], batches)
    parts = [_embedding(teacher, words, sensitivity[words], frequencies)]
    damping = recipe.initialisation.damping
    runner = LayerwiseRunner(teacher, encoder, batches)
    seen: set[int] = set()
    for number in encoder.calls:
        layer, calls = encoder.layers[number], runner.calls.copy()
        outputs = runner.advance(record=[f"block.{linear.name}" for linear in layer.spec.linears()])
        # A layer that is called again has the same bits there: its first call stands for all.
        if number not in seen:
            seen.add(number)
            one = _OneLayer(teacher, layer, shape, number, calls, outputs, recipe.estimators.bits)
            parts += one.linears(sensitivity, damping)
            parts.append(one.attention(sensitivity[layer.attention], damping))
    return _evened(parts)


def _evened(parts: Sequence[Part]) -> list[Part]:
    """Parts with errors between their own and the mean of the same part in all layers.

    What one layer's error comes to is, to first order, less certain than what a kind's does: a
    choice that trusts it takes bits away where it is wrong.
    """
    alike: dict[tuple[object, ...], list[Sequence[Option]]] = {}
    for part in parts:
        alike.setdefault((part.kind, part.linears, part.choices), []).append(part.options)

    def evened(part: Part) -> Iterator[Option]:
        same = alike[part.kind, part.linears, part.choices]
        for own, of_layers in zip(part.options, zip(*same, strict=True), strict=True):
            mean = fmean(option.error for option in of_layers)
            yield replace(own, error=math.sqrt(own.error * mean))

    return [replace(part, options=tuple(evened(part))) for part in parts]


def _pattern(paths: Sequence[str]) -> str:
    """A recipe's pattern for some modules, as short as their paths allow."""
    parents = {path.rpartition(".")[0] for path in paths}
    if len(paths) == 1 or len(parents) > 1:
        return "|".join(paths)
    return f"{parents.pop()}.({'|'.join(path.rpartition('.')[2] for path in paths)})"


def _embedding(
    teacher: PreTrainedModel, path: str, sensitivity: Tensor, frequencies: Tensor
) -> Part:
    table = get_module(teacher, path).weight
    assert isinstance(table, Tensor)
    choices, options = [], []
    shares = frequencies.to(table.device)
    for choice, error in embedding_errors(table.detach(), shares, sensitivity):
        size = packed(len(table) * choice.weights, table.shape[1], 1)
        choices.append(choice)
        options.append(Option(LEFT["embedding"] * error, Cost(0.0, size)))
    return Part(path, (path,), "embedding", tuple(choices), tuple(options))


@dataclass
class _OneLayer:
    """What the options of one layer are measured on."""

    teacher: PreTrainedModel
    layer: EncoderLayer
    shape: ModelShape
    number: int
    calls: Sequence[Call]
    outputs: Sequence[dict[str, Tensor]]
    estimator_bits: int

    def _operations(self, layer: LayerShape) -> float:
        """Above those of the layer as it is."""
        now = self.shape.layers[self.number]
        return sum(
            sign * part.compressed
            for sign, of_layer in ((1, layer), (-1, now))
            for part in block_parts(self.shape, of_layer)
        )

    def _inputs(self, name: str) -> Iterator[tuple[object, ...]]:
        """What a module of the block is called with, batch by batch."""
        layer = get_module(self.teacher, self.layer.path)
        module = layer.get_submodule(f"block.{name}")
        for call in self.calls:
            yield call.inputs(layer, module)

    def linears(self, sensitivity: dict[str, Tensor], damping: float) -> Iterator[Part]:
        """A part for each input of linear layers."""
        for stage in self.layer.spec.stages():
            inputs = [args[0] for args in self._inputs(stage[0].name)]
            x = torch.cat([y.flatten(0, -2) for y in inputs if isinstance(y, Tensor)])
            paths = tuple(f"{self.layer.block}.{linear.name}" for linear in stage)
            weights = [get_module(self.teacher, path).weight for path in paths]
            outputs = [
                torch.cat([o[f"block.{linear.name}"].float().flatten(0, -2) for o in self.outputs])
                for linear in stage
            ]
            at_end: list[dict[Choice, float]] = [{} for _ in stage]
            own = [sensitivity[path] for path in paths]
            for choice, errors in linear_errors(x, weights, outputs, own, damping):  # type: ignore[arg-type]
                for error, by_choice in zip(errors, at_end, strict=True):
                    by_choice[choice] = error
            left = [
                left_of_linear(linear.kind, by_choice)
                for linear, by_choice in zip(stage, at_end, strict=True)
            ]
            choices = tuple(left[0])
            options = tuple(
                Option(sum(of_linear[choice] for of_linear in left), self._cost(stage, choice))
                for choice in choices
            )
            names = tuple(linear.name for linear in stage)
            yield Part(_pattern(paths), paths, "linear", choices, options, self.number, names)

    def _cost(self, stage: Sequence[LinearSpec], choice: Choice) -> Cost:
        names = [linear.name for linear in stage]
        changed = _with_linears(self.shape.layers[self.number], names, choice)
        size = sum(packed(linear.outputs * choice.weights, linear.inputs, 1) for linear in stage)
        numbers = sum(choice.rank * (linear.inputs + linear.outputs) for linear in stage)
        size += numbers * self.estimator_bits // 8
        return Cost(self._operations(changed), size)

    def attention(self, sensitivity: Tensor, damping: float) -> Part:
        """The part between queries, keys, values and the context."""
        samples = []
        for args in self._inputs("attention.core"):
            query, key, value, mask, bias, hidden = args
            heads = query, key, value
            samples.append(AttentionSample(heads, heads, mask, bias, hidden))  # type: ignore[arg-type]
        original = get_module(self.teacher, self.layer.attention)
        assert isinstance(original, FullAttention)
        choices, options = [], []
        for choice, error in attention_errors(original, samples, sensitivity, damping):
            changed = _with_attention(self.shape.layers[self.number], choice)
            choices.append(choice)
            options.append(Option(LEFT["attention"] * error, Cost(self._operations(changed))))
        path = self.layer.attention
        return Part(path, (path,), "attention", tuple(choices), tuple(options), self.number)


def same_bits(part: Part, weights: int, embeddings: int) -> int | None:
    """Bits of a part's weights where all have the same; None for an attention, which has none."""
    return {"linear": weights, "embedding": embeddings}.get(part.kind)


def uniform_activations(part: Part, activations: int) -> int:
    """Bits of a part's codes where all have the same, or as many of them as it may have."""
    return min(activations, max(choice.activations for choice in part.choices))
