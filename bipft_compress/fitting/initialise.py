"""Where the binary model starts: layer by layer, from the full-precision error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bipft_compress.families import Encoder, EncoderLayer, get_module
from bipft_compress.fitting.layer import Example, fit_layer
from bipft_compress.fitting.layerwise import LayerwiseRunner
from bipft_compress.recipe import Initialisation

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def initialise(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    encoder: Encoder,
    batches: Sequence[Tensor],
    choices: Initialisation,
    progress: Callable[[int], None] = lambda call: None,
) -> list[float]:
    """Fill every binary module of `student` from `teacher` and calibration text.

    Walks the layers in order. Each is fed the student's own input and fitted to the teacher's
    output for the same tokens, so that a layer also corrects what its predecessors left over. A
    layer that is called several times is fitted to all its calls at once: first on the teacher's
    inputs of these calls, then on the student's own.

    Args:
        student: after `swap`.
        teacher: the full-precision original, with blocks: see `families.use_blocks`.
        encoder: parts of both.
        batches: token ids, each (sequences, length), without padding.
        choices: the recipe's `initialisation` section.
        progress: called with the number of a call when its layer is done.

    Returns:
        Normalised squared error of the hidden states after each call of a layer, on the
        calibration text.
    """
    student.eval()
    teacher.eval()
    student_runner = LayerwiseRunner(student, encoder, batches)
    teacher_runner = LayerwiseRunner(teacher, encoder, batches)
    errors: list[float] = []
    for segment in segments(encoder.calls):
        # Of each call in the segment, an example a batch.
        examples = [_examples(teacher_runner, encoder.layers[layer]) for layer in segment]
        for example, call in zip(examples[0], student_runner.calls, strict=True):
            example.student = call
        _fit_segment(student, teacher, encoder, segment, examples, choices)
        if len(segment) > 1:
            _use_own_inputs(student, encoder, segment, examples)
            _fit_segment(student, teacher, encoder, segment, examples, choices)
        for of_call in examples:
            student_runner.advance()
            errors.append(_normalised_error(student_runner, of_call))
            progress(len(errors) - 1)
    return errors


def _examples(teacher: LayerwiseRunner, layer: EncoderLayer) -> list[Example]:
    """The teacher's next call, one example a batch, whose student's input is the teacher's."""
    before = teacher.calls.copy()
    targets = teacher.advance(record=[f"block.{linear.name}" for linear in layer.spec.linears()])
    return [
        Example(call, call, outputs, after.hidden)
        for call, outputs, after in zip(before, targets, teacher.calls, strict=True)
    ]


def _fit_segment(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    encoder: Encoder,
    segment: tuple[int, ...],
    examples: list[list[Example]],
    choices: Initialisation,
) -> None:
    for number in dict.fromkeys(segment):
        layer = encoder.layers[number]
        of_layer = [
            example
            for called, of_call in zip(segment, examples, strict=True)
            if called == number
            for example in of_call
        ]
        modules = get_module(student, layer.path), get_module(teacher, layer.path)
        fit_layer(*modules, layer.spec, of_layer, choices)


@torch.no_grad()
def _use_own_inputs(
    student: PreTrainedModel,
    encoder: Encoder,
    segment: tuple[int, ...],
    examples: list[list[Example]],
) -> None:
    """Walk the student through a segment and give each example the input that it really has."""
    hidden = [example.student.hidden for example in examples[0]]
    for number, of_call in zip(segment, examples, strict=True):
        layer = get_module(student, encoder.layers[number].path)
        for batch, example in enumerate(of_call):
            example.student = example.student.at(hidden[batch])
            hidden[batch] = example.student.run(layer)


def _normalised_error(student: LayerwiseRunner, examples: Sequence[Example]) -> float:
    """Squared error of the hidden states over the teacher's variance."""
    error = total = 0.0
    for call, example in zip(student.calls, examples, strict=True):
        target = example.output
        error += float((call.hidden - target).square().sum())
        total += float((target - target.mean((0, 1))).square().sum())
    # Weights of zeros give hidden states that do not vary: nothing is missing where nothing is.
    return error / total if total else error


def segments(calls: Sequence[int]) -> list[tuple[int, ...]]:
    """Cut the calls of layers where no layer is called on both sides.

    All but ALBERT's have one call in each.
    """
    last = {layer: position for position, layer in enumerate(calls)}
    cuts, start, end = [], 0, -1
    for position, layer in enumerate(calls):
        end = max(end, last[layer])
        if position == end:
            cuts.append(tuple(calls[start : position + 1]))
            start = position + 1
    return cuts
