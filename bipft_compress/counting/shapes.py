"""What the counts read: the blocks' descriptions, and the bits and ranks of the swapped modules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bipft_compress.counting.surroundings import OutsideShape, TableShape, read_surroundings
from bipft_compress.families import Encoder, EncoderLayer, get_module
from bipft_compress.nn import BinaryAttention, BinaryLinear, Readout
from bipft_compress.spec import BlockSpec, DynamicScale, LinearSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class LinearBits:
    """Bits of a binary linear.

    Attributes:
        bits: of its input.
        rank: of its estimator; 0 for none.
        weight_bits: of a weight.
        dynamic_scale: what scales a token's codes; see `nn.quantizers.token_magnitude`.
    """

    bits: int
    rank: int
    weight_bits: int = 1
    dynamic_scale: DynamicScale = "none"

    @property
    def folds(self) -> bool:
        """Whether what lies before and behind it can be thresholds of integers.

        An estimator, or a token's magnitude, needs the input and the output as numbers.
        """
        return not self.rank and self.dynamic_scale == "none"


@dataclass(frozen=True)
class AttentionBits:
    """Bits and ranks of a binary attention.

    Attributes:
        bits: of queries and probabilities.
        key_value_bits: of keys and values.
        score_rank: of the estimator of scores; 0 for none.
        context_rank: of the estimator of the context; 0 for none.
        boolean: Bi-Attention, without softmax.
        from_hidden: the estimators read the hidden states, for all heads at once.
    """

    bits: int
    key_value_bits: int
    score_rank: int
    context_rank: int
    boolean: bool
    from_hidden: bool


@dataclass(frozen=True)
class LayerShape:
    """An encoder layer.

    Attributes:
        path: from the model's root.
        calls: how often a forward pass runs it.
        spec: of its block.
        linears: name of each of the block's linears to its bits.
        attention: bits of the attention.
    """

    path: str
    calls: int
    spec: BlockSpec
    linears: dict[str, LinearBits]
    attention: AttentionBits

    @property
    def block(self) -> str:
        """Path of the block."""
        return f"{self.path}.block"

    def binary_linears(self) -> Iterator[tuple[LinearSpec, LinearBits]]:
        """Description and bits of every linear."""
        for linear in self.spec.linears():
            yield linear, self.linears[linear.name]


@dataclass(frozen=True)
class ReadoutShape:
    """What `nn.Readout` computes beside its two products.

    Attributes:
        path: from the model's root.
        means: hidden states whose mean it takes.
        corrected: tokens that its correction is added to.
        width: of a hidden state.
    """

    path: str
    means: int
    corrected: int
    width: int


@dataclass(frozen=True)
class ModelShape:
    """Everything that the counts depend on, for `batch` sequences of `length` tokens.

    Attributes:
        batch: sequences.
        length: tokens of a sequence.
        tables: embeddings, the words' first.
        layers: those that are stored, each once.
        outside: what computes outside the blocks.
        readout: the binary model's alone.
    """

    batch: int
    length: int
    tables: tuple[TableShape, ...]
    layers: tuple[LayerShape, ...]
    outside: tuple[OutsideShape, ...]
    readout: ReadoutShape | None

    @property
    def tokens(self) -> int:
        """Tokens of all sequences."""
        return self.batch * self.length

    def pairs(self, window: int | None) -> int:
        """Pairs of a query and a key that it attends to, of all sequences, for one head.

        Args:
            window: largest distance of the two; None for no limit.
        """
        length = self.length
        if window is None or window >= length - 1:
            return self.batch * length**2
        # Every query has 2 window + 1 keys; windows of the outermost reach beyond the sequence.
        return self.batch * (length * (2 * window + 1) - window * (window + 1))

    def without_estimators(self) -> ModelShape:
        """The same model with every estimator, and the readout, left out."""
        layers = tuple(
            replace(
                layer,
                linears={name: replace(bits, rank=0) for name, bits in layer.linears.items()},
                attention=replace(layer.attention, score_rank=0, context_rank=0),
            )
            for layer in self.layers
        )
        outside = tuple(part for part in self.outside if part.kind != "readout")
        return replace(self, layers=layers, outside=outside, readout=None)

    def without_heads(self) -> ModelShape:
        """The encoder alone."""
        return replace(self, outside=tuple(part for part in self.outside if part.kind != "head"))


def read_shape(model: PreTrainedModel, encoder: Encoder, batch: int, length: int) -> ModelShape:
    """The shape of a swapped model on the meta device.

    Args:
        model: after `structure.swap`, all of it on the meta device; it is run once, which costs
            nothing there and tells what runs outside the blocks.
        encoder: the parts of `model`.
        batch: sequences.
        length: tokens of a sequence.

    Raises:
        UnsupportedModelError: the model does not run on token ids alone.
    """
    tables, outside = read_surroundings(model, encoder, batch, length)
    return ModelShape(
        batch=batch,
        length=length,
        tables=tables,
        layers=read_layers(model, encoder),
        outside=outside,
        readout=_readout(model, encoder, batch, length),
    )


def read_layers(model: PreTrainedModel, encoder: Encoder) -> tuple[LayerShape, ...]:
    """The shapes of a swapped model's layers; only names and shapes are read."""
    calls = Counter(encoder.calls)
    return tuple(_layer(model, layer, calls[number]) for number, layer in enumerate(encoder.layers))


def _readout(
    model: PreTrainedModel, encoder: Encoder, batch: int, length: int
) -> ReadoutShape | None:
    if encoder.readout is None:
        return None
    readout = get_module(model, encoder.readout)
    assert isinstance(readout, Readout)
    means = len(readout.layers) * batch * length
    corrected = batch if readout.first_token else batch * length
    return ReadoutShape(encoder.readout, means, corrected, encoder.hidden_size)


def _layer(model: PreTrainedModel, layer: EncoderLayer, calls: int) -> LayerShape:
    linears = {}
    for path, spec in layer.linears():
        linear = get_module(model, path)
        assert isinstance(linear, BinaryLinear)
        linears[spec.name] = LinearBits(
            linear.bits, linear.rank, linear.weight_bits, linear.dynamic_scale
        )
    attention = get_module(model, layer.attention)
    assert isinstance(attention, BinaryAttention)
    return LayerShape(layer.path, calls, layer.spec, linears, _attention(attention))


def _attention(module: BinaryAttention) -> AttentionBits:
    scores, context = module.score_estimator, module.context_estimator
    shared = module.shared_estimator
    score_rank = 0 if scores is None else scores.rank
    context_rank = 0 if context is None else context.rank
    if shared is not None:
        score_rank, context_rank = shared.score_rank, shared.context_rank
    return AttentionBits(
        bits=module.bits,
        key_value_bits=module.key_value_bits,
        score_rank=score_rank,
        context_rank=context_rank,
        boolean=module.boolean,
        from_hidden=shared is not None,
    )
