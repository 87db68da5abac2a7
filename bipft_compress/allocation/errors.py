"""The error that each choice of bits leaves at a module's own output, in closed form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bipft_compress.allocation.estimates import Estimates
from bipft_compress.allocation.sensitivity import by_channel, error_at_end, errors_at_end
from bipft_compress.fitting.attention import AttentionSample, fit_attention
from bipft_compress.fitting.moments import LinearMoments
from bipft_compress.fitting.regression import least_squares_scale
from bipft_compress.nn import BinaryAttention, FullAttention, SignEmbedding, signed_codes
from bipft_compress.nn.quantizers import activation_scale, nearest_codes, token_magnitude
from bipft_compress.spec import DynamicScale

WEIGHT_BITS = (1, 2, 3, 4)
INPUTS: tuple[tuple[int, DynamicScale], ...] = (
    (1, "none"), (1, "max"), (2, "rms"), (2, "max"), (4, "rms"), (4, "max"), (8, "max"),
)  # fmt: skip
"""Bits of an activation, and what scales them, that a linear layer may have."""

ATTENTION_BITS = (1, 2, 4, 8)
"""Bits of an attention's codes."""


@dataclass(frozen=True)
class Choice:
    """Bits for some modules that share them.

    Attributes:
        weights: of a weight, or of a word embedding's.
        activations: of an input, or of queries, keys, values and probabilities.
        dynamic_scale: of an input.
        rank: of the estimators.
    """

    weights: int = 1
    activations: int = 1
    dynamic_scale: DynamicScale = "none"
    rank: int = 0


def linear_errors(
    x: Tensor,
    weights: Sequence[Tensor],
    outputs: Sequence[Tensor],
    sensitivities: Sequence[Tensor],
    damping: float,
) -> Iterator[tuple[Choice, list[float]]]:
    """Errors of linear layers that read the same input, for every choice of bits and rank.

    Weights are those of `nearest_codes`, with a least-squares scale a row: what the descents over
    codes and by layer gain on top is not counted.

    Args:
        x: their input, (tokens, in).
        weights: of each in full precision, (out, in).
        outputs: of each for `x`, (tokens, out).
        sensitivities: of each layer's outputs, (out,).
        damping: of the regression of estimators; see `Estimates`.

    Yields:
        A choice, and what the error of each layer comes to: see `error_at_end`.
    """
    shift, y = x.mean(0), torch.cat(list(outputs), 1)
    estimates = Estimates(x - shift, y, sensitivities, damping)
    codes = {
        bits: torch.cat([nearest_codes(weight.detach(), bits)[0] for weight in weights])
        for bits in WEIGHT_BITS
    }
    for bits, dynamic_scale in INPUTS:
        moments = LinearMoments(x.shape[1], y.shape[1], of_inputs=False, device=x.device)
        values = _code_values(x - shift, bits, dynamic_scale)
        moments.update(x, values, y)
        m = moments.centred()
        bb, yb = m.bb.float(), m.yb.float()
        estimates.read(values)
        for weight_bits, of_rows in codes.items():
            scale = least_squares_scale(of_rows, yb, bb)
            for rank, of_layers in estimates.errors(scale.unsqueeze(1) * of_rows):
                yield Choice(weight_bits, bits, dynamic_scale, rank), of_layers


def _code_values(s: Tensor, bits: int, dynamic_scale: DynamicScale) -> Tensor:
    """Codes of shifted inputs (tokens, in), times the magnitudes of their tokens."""
    magnitude, scale = token_magnitude(s, dynamic_scale), activation_scale(s, bits, dynamic_scale)
    if magnitude is None:
        return signed_codes(s, scale, bits)
    return signed_codes(s, scale * magnitude, bits) * magnitude


def attention_errors(
    original: FullAttention,
    samples: Sequence[AttentionSample],
    sensitivity: Tensor,
    damping: float,
) -> Iterator[tuple[Choice, float]]:
    """Errors of an attention's context, for every choice of bits of all its codes.

    Args:
        original: in full precision.
        samples: what it is called with; student and teacher are the same.
        sensitivity: of the context, (heads * head_dim,).
        damping: see `fit_attention`.

    Yields:
        A choice, and what the context's error comes to: see `error_at_end`.
    """
    for bits in ATTENTION_BITS:
        binary = BinaryAttention(original.spec, bits=bits, key_value_bits=bits)
        binary.to(samples[0].student[0].device).eval()
        fit_attention(binary, original, samples, damping=damping)
        left = []
        for sample in samples:
            arguments = (*sample.student, sample.mask, sample.bias, sample.hidden)
            with torch.no_grad():
                left.append(by_channel(binary(*arguments) - original(*arguments)))
        yield Choice(bits, bits), error_at_end(sensitivity, torch.cat(left))


def embedding_errors(
    table: Tensor, frequencies: Tensor, sensitivity: Tensor
) -> Iterator[tuple[Choice, float]]:
    """Errors of word embeddings in planes of signs, for each number of bits.

    Args:
        table: (num_embeddings, embedding_dim).
        frequencies: of the words, summing to one, (num_embeddings,).
        sensitivity: of an embedding, (embedding_dim,).

    Yields:
        A choice, and what the error of text comes to.
    """
    read = frequencies > 0
    rows, share = table[read], frequencies[read]
    for bits in WEIGHT_BITS:
        coded = SignEmbedding(rows.shape[0], rows.shape[1], bits).to(rows.device)
        coded.initialise(rows)
        of_words = errors_at_end(sensitivity, coded.weight.detach() - rows)
        yield Choice(bits, 1), float(of_words @ share.to(rows))
