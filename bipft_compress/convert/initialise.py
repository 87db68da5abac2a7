"""Where the binary model starts: layer by layer, from the full-precision error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bipft_compress.convert.attach import ATTRIBUTE, attached
from bipft_compress.convert.attention_fit import (
    NORMAL_HALF_STEP,
    fit_attention,
    start_attention_by_magnitude,
)
from bipft_compress.convert.layerwise import LayerwiseRunner
from bipft_compress.convert.moments import LinearMoments
from bipft_compress.convert.reconstruct import reconstruct_layer
from bipft_compress.convert.regression import LinearFit, fit_by_magnitude, fit_linear
from bipft_compress.families import Encoder, get_module
from bipft_compress.nn import BinaryLinear, signed_codes
from bipft_compress.recipe import Initialisation

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PILOT_TOKENS = 8192
"""Tokens that shifts and activation scales are taken from; the moments then see all of them."""

ATTENTION_TOKENS = 4096
"""Tokens that a layer's attention is fitted on: it has few parameters and many scores."""

TOKENS_PER_INPUT = 20
"""Where there are twice as many tokens for each input of a layer, every other batch is left out."""

STAGES = (("query", "key", "value"), ("attention_output",), ("ffn_up",), ("ffn_down",))
"""Kinds that read the same input are fitted together."""


def initialise(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    encoder: Encoder,
    batches: Sequence[Tensor],
    choices: Initialisation,
    progress: Callable[[int], None] = lambda layer: None,
) -> list[float]:
    """Fill every binary module of `student` from `teacher` and calibration text.

    Walks the layers in order. Each is fed the student's own input and fitted to the teacher's
    output for the same tokens, so that a layer also corrects what its predecessors left over.

    Args:
        student: after `swap`.
        teacher: the full-precision original.
        encoder: parts of both.
        batches: token ids, each (sequences, length), without padding.
        choices: the recipe's `initialisation` section.
        progress: called with a layer's number when it is done.

    Returns:
        Normalised squared error of the hidden states after each layer, on the calibration text.
    """
    student.eval()
    teacher.eval()
    ours = LayerwiseRunner(student, encoder, batches)
    theirs = LayerwiseRunner(teacher, encoder, batches)
    errors = []
    for index, layer in enumerate(encoder.layers):
        targets = theirs.advance(record=layer.linears.values())
        for stage in STAGES:
            paths = [layer.linears[kind] for kind in stage]
            originals = [get_module(teacher, path) for path in paths]
            _fit_stage(ours, originals, targets, paths, choices)
            if stage[0] == "query":
                _fit_layer_attention(ours, targets, index, choices)
        if choices.layer_epochs:
            reconstruct_layer(ours, theirs, choices)
        ours.advance()
        errors.append(normalised_error(ours, theirs))
        progress(index)
    return errors


def normalised_error(ours: LayerwiseRunner, theirs: LayerwiseRunner) -> float:
    """Squared error of the hidden states over the teacher's variance, where both have got to."""
    error = total = 0.0
    for batch in range(len(ours)):
        wanted = theirs.hidden(batch)
        error += float((ours.hidden(batch) - wanted).square().sum())
        total += float((wanted - wanted.mean((0, 1))).square().sum())
    return error / total


def _fit_stage(
    ours: LayerwiseRunner,
    originals: Sequence[nn.Module],
    targets: list[dict[str, Tensor]],
    paths: list[str],
    choices: Initialisation,
) -> None:
    layers = [get_module(ours.model, path) for path in paths]
    assert all(isinstance(layer, BinaryLinear) for layer in layers)
    binary: list[BinaryLinear] = layers  # type: ignore[assignment]
    closed = choices.scales == "least-squares"

    def student_input(batch: int) -> Tensor:
        return ours.inputs(batch, paths[0])[0].flatten(0, -2)

    def wanted(batch: int) -> Tensor:
        return torch.cat([targets[batch][path].float().flatten(0, -2) for path in paths], 1)

    shift, scale = _calibrate(_pilot(student_input, len(ours)), binary[0].bits, shifted=closed)
    if closed:
        # Moments cost in_features^2 a token, and a few dozen tokens an input settle them.
        tokens = sum(ours.hidden(batch)[..., 0].numel() for batch in range(len(ours)))
        stride = max(1, tokens // (TOKENS_PER_INPUT * binary[0].in_features))
        pairs = ((student_input(batch), wanted(batch)) for batch in range(0, len(ours), stride))
        fits = _least_squares(binary, originals, pairs, shift, scale, choices)
    else:
        fits = _by_magnitude(binary, originals, scale, choices)
    for layer, original, fit in zip(binary, originals, fits, strict=True):
        _fill(layer, fit, _weight(original), shift, scale)


def _least_squares(
    layers: Sequence[BinaryLinear],
    originals: Sequence[nn.Module],
    pairs: Iterable[tuple[Tensor, Tensor]],
    shift: Tensor,
    scale: Tensor,
    choices: Initialisation,
) -> Iterator[LinearFit]:
    """Closed forms from batches of the input and of the outputs that all layers want of it."""
    bits, width = layers[0].bits, layers[0].in_features
    outputs = sum(layer.out_features for layer in layers)
    moments = LinearMoments(width, outputs, of_inputs=any(layer.rank for layer in layers))
    for x, y in pairs:
        moments.update(x, signed_codes(x - shift, scale, bits), y)
    covariances, start = moments.centred(), 0
    for layer, original in zip(layers, originals, strict=True):
        rows = slice(start, start + layer.out_features)
        start = rows.stop
        yield fit_linear(
            _weight(original),
            covariances.outputs(rows),
            rank=layer.rank,
            activation_scale=float(scale),
            choices=choices,
        )


def _by_magnitude(
    layers: Sequence[BinaryLinear],
    originals: Sequence[nn.Module],
    scale: Tensor,
    choices: Initialisation,
) -> Iterator[LinearFit]:
    """The papers' start: of the weights alone."""
    for layer, original in zip(layers, originals, strict=True):
        weight, bias = _weight(original), original.bias
        yield fit_by_magnitude(
            weight,
            bias.detach() if isinstance(bias, Tensor) else weight.new_zeros(len(weight)),
            rank=layer.rank,
            activation_scale=float(scale),
            method=choices.method,
        )


def _weight(linear: nn.Module) -> Tensor:
    assert isinstance(linear.weight, Tensor)
    return linear.weight.detach()


@torch.no_grad()
def _fill(
    layer: BinaryLinear, fit: LinearFit, weight: Tensor, shift: Tensor, scale: Tensor
) -> None:
    layer.shift.copy_(shift)
    layer.activation_scale.copy_(scale)
    # The latent weight keeps its magnitude and takes the fitted sign; a sign is never 0, so
    # neither may the magnitude be.
    layer.weight.copy_(fit.signs * weight.abs().clamp_min(1e-8))
    layer.weight_scale.copy_(fit.scale / scale)
    layer.bias.copy_(fit.bias)
    if layer.estimator is not None:
        layer.estimator.up.copy_(fit.up)
        layer.estimator.down.copy_(fit.down)


def _pilot(student_input: Callable[[int], Tensor], batches: int) -> Tensor:
    """Inputs of some batches from all over the text, `PILOT_TOKENS` where there are so many."""
    parts: list[Tensor] = []
    # An odd stride: batches are sorted by length, and all lengths must be heard.
    for number in range(batches):
        parts.append(student_input(number * 7919 % batches))
        if sum(map(len, parts)) >= PILOT_TOKENS:
            break
    return torch.cat(parts)


def _calibrate(x: Tensor, bits: int, *, shifted: bool) -> tuple[Tensor, Tensor]:
    """Shift (in,), 0 unless `shifted`, and activation scale () of inputs `x` (tokens, in)."""
    shift = x.mean(0) if shifted else torch.zeros_like(x[0])
    centred = x - shift
    if bits == 1:
        return shift, centred.abs().mean()
    return shift, centred.square().mean().sqrt() * NORMAL_HALF_STEP[bits]


def _fit_layer_attention(
    ours: LayerwiseRunner, targets: list[dict[str, Tensor]], index: int, choices: Initialisation
) -> None:
    layer, attention = ours.encoder.layers[index], attached(ours.model, ours.encoder, index)
    at_random = choices.method == "random"
    if attention.shared_estimator is not None:
        # It has no closed form: unless it is drawn, what it adds starts at zero.
        attention.shared_estimator.start(at_random=at_random)
    kinds = [layer.linears[kind] for kind in ("query", "key", "value")]
    path = f"{layer.attention}.{ATTRIBUTE}"
    if choices.scales == "magnitude":
        first = torch.stack(ours.inputs(len(ours) // 2, path)[:3])
        start_attention_by_magnitude(attention, first, at_random=at_random)
        return
    samples, tokens = [], 0
    for number in range(len(ours)):
        batch = number * 7919 % len(ours)
        student = torch.stack(ours.inputs(batch, path)[:3])
        teacher = [_split_heads(targets[batch][kind].float(), ours.encoder) for kind in kinds]
        share = max(1, ATTENTION_TOKENS // 8 // student.shape[-2])
        samples.append((student[:, :share], torch.stack(teacher)[:, :share]))
        tokens += samples[-1][0][0, :, 0, :, 0].numel()
        if tokens >= ATTENTION_TOKENS:
            break
    fit_attention(attention, samples, damping=choices.damping)


def _split_heads(x: Tensor, encoder: Encoder) -> Tensor:
    return x.view(*x.shape[:-1], encoder.heads, encoder.head_dim).transpose(1, 2)
