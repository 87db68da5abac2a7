"""Fit one binary layer to its original: stage by stage in closed form, then as a whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bipft_compress.collectives import own_share
from bipft_compress.fitting.attention import (
    AttentionSample,
    fit_attention,
    start_attention_by_magnitude,
)
from bipft_compress.fitting.layerwise import Call
from bipft_compress.fitting.moments import LinearMoments
from bipft_compress.fitting.reconstruct import reconstruct_layer
from bipft_compress.fitting.regression import (
    LinearFit,
    fit_by_magnitude,
    fit_linear,
)
from bipft_compress.nn import BinaryAttention, BinaryLinear, FullAttention
from bipft_compress.nn.quantizers import LATENT_STEP, activation_scale, signed_codes
from bipft_compress.recipe import Initialisation
from bipft_compress.spec import BlockSpec, LinearSpec

PILOT_TOKENS = 8192
"""Tokens that shifts and activation scales are taken from; the moments then see all of them."""

ATTENTION_TOKENS = 4096
"""Tokens that a layer's attention is fitted on: it has few parameters and many scores."""

ATTENTION_BATCHES = 8
"""Batches that these tokens come from, where batches are so large."""

TOKENS_PER_INPUT = 20
"""Where there are twice as many tokens for each input of a layer, every other batch is left out."""

STRIDE = 7919
"""A prime: examples are sorted by length, and steps of it visit all lengths alike."""

SMALLEST_LATENT = 1e-8
"""Magnitude of a latent weight: a sign is never 0, so neither may its weight be."""


@dataclass
class Example:
    """One call of a layer for one batch: what goes in, and what should come out.

    Attributes:
        student: the call of the binary layer.
        teacher: the call of the original.
        targets: path below the layer to the original's output, for every linear of its block.
        output: the original's hidden states after the layer.
    """

    student: Call
    teacher: Call
    targets: dict[str, Tensor]
    output: Tensor

    @property
    def tokens(self) -> int:
        return self.output[..., 0].numel()


def fit_layer(
    student: nn.Module,
    teacher: nn.Module,
    spec: BlockSpec,
    examples: Sequence[Example],
    choices: Initialisation,
) -> None:
    """Fill the binary modules of a layer, in place.

    Args:
        student: the layer that holds the binary block.
        teacher: the original layer, holding its block.
        spec: of both blocks.
        examples: of all calls of this layer.
        choices: the recipe's `initialisation` section.
    """
    fit = _LayerFit(student, teacher, examples, choices)
    for stage in spec.stages():
        if stage[0].source == "context":
            fit.attention()
        fit.linears(stage)
    if choices.layer_epochs:
        reconstruct_layer(student, [(e.student, e.output) for e in examples], choices)


def _spread(examples: Sequence[Example]) -> Iterator[Example]:
    """All examples, neighbours of unlike lengths."""
    for number in range(len(examples)):
        yield examples[number * STRIDE % len(examples)]


class _LayerFit:
    """The closed forms of one layer."""

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        examples: Sequence[Example],
        choices: Initialisation,
    ) -> None:
        self.student, self.teacher = student, teacher
        self.examples, self.choices = examples, choices

    def linears(self, stage: Sequence[LinearSpec]) -> None:
        """Fit linears that read the same input: those together that have the same codes of it."""
        groups: dict[tuple[int, str], list[str]] = defaultdict(list)
        for linear in stage:
            name = f"block.{linear.name}"
            binary = self.student.get_submodule(name)
            assert isinstance(binary, BinaryLinear)
            groups[binary.bits, binary.dynamic_scale].append(name)
        for names in groups.values():
            self._same_codes(names)

    def _same_codes(self, names: Sequence[str]) -> None:
        binary = [self.student.get_submodule(name) for name in names]
        layers: list[BinaryLinear] = binary  # type: ignore[assignment]
        originals = [self.teacher.get_submodule(name) for name in names]
        closed = self.choices.scales == "least-squares"
        shift, scale = _calibrate(self._pilot(layers[0]), layers[0], shifted=closed)
        for layer in layers:
            layer.shift.data.copy_(shift)
            layer.activation_scale.data.copy_(scale)
        if closed:
            fits = self._least_squares(layers, originals, names)
        else:
            fits = self._by_magnitude(layers, originals, scale)
        for layer, original, fit in zip(layers, originals, fits, strict=True):
            _fill(layer, fit, _weight(original))

    def _input(self, example: Example, layer: nn.Module) -> Tensor:
        """The student's own input of one of its modules, (tokens, in)."""
        x: Tensor = example.student.inputs(self.student, layer)[0]
        return x.flatten(0, -2)

    def _pilot(self, layer: nn.Module) -> Tensor:
        """Inputs of `PILOT_TOKENS` tokens, where there are so many."""
        parts: list[Tensor] = []
        for example in _spread(self.examples):
            parts.append(self._input(example, layer))
            if sum(map(len, parts)) >= PILOT_TOKENS:
                break
        return torch.cat(parts)

    def _least_squares(
        self,
        layers: Sequence[BinaryLinear],
        originals: Sequence[nn.Module],
        names: Sequence[str],
    ) -> Iterator[LinearFit]:
        """Closed forms from the input and from the outputs that all layers want of it."""
        width = layers[0].in_features
        outputs = sum(layer.out_features for layer in layers)
        of_inputs = any(layer.rank for layer in layers)
        moments = LinearMoments(width, outputs, of_inputs, layers[0].weight.device)
        for example in own_share(self._enough(width)):
            x = self._input(example, layers[0])
            y = torch.cat([example.targets[name].float().flatten(0, -2) for name in names], 1)
            with torch.no_grad():
                codes, magnitude = layers[0].input_codes(x)
            moments.update(x, codes if magnitude is None else codes * magnitude, y)
        covariances, start = moments.centred(), 0
        for layer, original in zip(layers, originals, strict=True):
            rows = slice(start, start + layer.out_features)
            start = rows.stop
            yield fit_linear(
                _weight(original),
                covariances.outputs(rows),
                rank=layer.rank,
                activation_scale=float(layer.activation_scale.detach()),
                choices=self.choices,
                bits=layer.weight_bits,
            )

    def _enough(self, width: int) -> Sequence[Example]:
        """Moments cost width^2 a token, and a few dozen tokens an input settle them."""
        tokens = sum(example.tokens for example in self.examples)
        return self.examples[:: max(1, tokens // (TOKENS_PER_INPUT * width))]

    def _by_magnitude(
        self, layers: Sequence[BinaryLinear], originals: Sequence[nn.Module], scale: Tensor
    ) -> Iterator[LinearFit]:
        """The papers' start: of the weights alone."""
        for layer, original in zip(layers, originals, strict=True):
            weight, bias = _weight(original), original.bias
            yield fit_by_magnitude(
                weight,
                bias.detach() if isinstance(bias, Tensor) else weight.new_zeros(len(weight)),
                rank=layer.rank,
                activation_scale=float(scale),
                method=self.choices.method,
                bits=layer.weight_bits,
            )

    def attention(self) -> None:
        """Fit the arithmetic between the projections and the output."""
        binary = self.student.get_submodule("block.attention.core")
        original = self.teacher.get_submodule("block.attention.core")
        assert isinstance(binary, BinaryAttention)
        assert isinstance(original, FullAttention)
        at_random = self.choices.method == "random"
        if binary.shared_estimator is not None:
            # It has no closed form: unless it is drawn, what it adds starts at zero.
            binary.shared_estimator.start(at_random=at_random)
        if self.choices.scales == "magnitude":
            middle = self.examples[len(self.examples) // 2]
            sample = self._sample(middle, binary, original, len(middle.output))
            start_attention_by_magnitude(binary, original, sample, at_random=at_random)
            return
        samples, tokens = [], 0
        for example in _spread(self.examples):
            length = example.output.shape[1]
            most = max(1, ATTENTION_TOKENS // ATTENTION_BATCHES // length)
            samples.append(self._sample(example, binary, original, most))
            tokens += samples[-1].tokens
            if tokens >= ATTENTION_TOKENS:
                break
        fit_attention(binary, original, samples, damping=self.choices.damping)

    def _sample(
        self, example: Example, binary: nn.Module, original: nn.Module, most: int
    ) -> AttentionSample:
        """Arguments of both attentions, of at most so many sequences."""
        student = example.student.inputs(self.student, binary)
        teacher = example.teacher.inputs(self.teacher, original)
        query, key, value, mask, bias, hidden = student
        # A mask may be that of all sequences at once.
        mask = mask if mask is None or len(mask) == 1 else mask[:most]
        return AttentionSample(
            (query[:most], key[:most], value[:most]),
            (teacher[0][:most], teacher[1][:most], teacher[2][:most]),
            mask,
            bias,
            hidden[:most],
        )


def _weight(linear: nn.Module) -> Tensor:
    assert isinstance(linear.weight, Tensor)
    return linear.weight.detach()


@torch.no_grad()
def _fill(layer: BinaryLinear, fit: LinearFit, weight: Tensor) -> None:
    layer.weight.copy_(_latent(fit, weight, layer.weight_bits))
    layer.weight_scale.copy_(fit.scale / layer.activation_scale)
    layer.bias.copy_(fit.bias)
    if layer.estimator is not None:
        layer.estimator.up.copy_(fit.up)
        layer.estimator.down.copy_(fit.down)


def _latent(fit: LinearFit, weight: Tensor, bits: int) -> Tensor:
    """Latent weights of the fitted codes, where these allow it at the original's place in them.

    Args:
        fit: of the layer.
        weight: full-precision weight, (out, in).
        bits: of a weight.
    """
    steps = weight.to(fit.step) / fit.step
    if bits == 1:
        # A flipped sign keeps the magnitude of its weight.
        return fit.codes * steps.abs().clamp_min(SMALLEST_LATENT) * LATENT_STEP
    nearest = signed_codes(steps, 1.0, bits)
    return torch.where(nearest == fit.codes, steps, fit.codes) * LATENT_STEP


@torch.no_grad()
def _calibrate(x: Tensor, layer: BinaryLinear, *, shifted: bool) -> tuple[Tensor, Tensor]:
    """Shift (in,), 0 unless `shifted`, and activation scale () of inputs `x` (tokens, in)."""
    shift = x.mean(0) if shifted else torch.zeros_like(x[0])
    return shift, activation_scale(x - shift, layer.bits, layer.dynamic_scale)
