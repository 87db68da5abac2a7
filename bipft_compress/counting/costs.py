"""What one operation costs, in FLOPs: the two conventions that every figure here follows.

Products follow the papers on binary BERTs (BinaryBERT, Bai et al. 2021; BiT, Liu et al. 2022;
BiPFT, Xing et al. 2024): two FLOPs a multiply-accumulate in full precision, and an m-bit by n-bit
one costs m * n / 64 of that. Elementwise arithmetic follows the weights of the Livermore loops
(McMahon 1986): add, subtract, multiply and compare 1, divide and square root 4, exponential and
the like 8. Constants below are FLOPs an element, each written as the sum it comes from.
"""

from __future__ import annotations

from bipft_compress.spec import NormSpec

FULL_PRECISION_BITS = 32
"""Width of an operand in full precision."""

BITS_A_FLOP = 64
"""Products of one bit by one that count as one product in full precision."""

ADD = SUBTRACT = MULTIPLY = COMPARE = 1
DIVIDE = SQUARE_ROOT = 4
EXP = ERF = TANH = 8

LAYER_NORM = (
    ADD  # sum for the mean
    + SUBTRACT  # centre
    + MULTIPLY  # square
    + ADD  # sum for the variance
    + MULTIPLY  # by the reciprocal deviation
    + MULTIPLY  # gain
    + ADD  # bias
)
"""7; the square root and the division of a row are shared by its elements and neglected."""

RMS_NORM = (
    MULTIPLY  # square
    + ADD  # sum for the mean square
    + MULTIPLY  # by the reciprocal root
    + MULTIPLY  # gain
)
"""4; the square root and the division of a row are neglected as above."""

AFFINE = MULTIPLY + ADD
"""2: MobileBERT's gain and bias."""

ROTARY = MULTIPLY + MULTIPLY + ADD
"""3 a number: ``x * cos + turned * sin``; the change of sign is part of the sine."""

GELU = MULTIPLY + ERF + ADD + MULTIPLY + MULTIPLY
"""12: ``0.5 * x * (1 + erf(x / sqrt 2))``."""

RELU = COMPARE

SOFTMAX = (
    MULTIPLY  # scale of the score
    + ADD  # mask
    + COMPARE  # maximum of the row
    + SUBTRACT  # of the maximum
    + EXP
    + ADD  # sum of the row
    + MULTIPLY  # by its reciprocal
)
"""14 a score; the division of a row is shared by its scores and neglected."""

TABLE_SOFTMAX = ADD + ADD
"""2 a score, mask and sum, where a score is one of few integers and its exponential a table."""

BIASED_TABLE_SOFTMAX = TABLE_SOFTMAX + MULTIPLY
"""3 a score, where a bias by distance is added: its exponential is a table too, and multiplied."""

FLOAT_OUTPUT = MULTIPLY + ADD
"""2: an accumulator that is needed in floating point is scaled and gets its bias or estimate."""

TOKEN_MAGNITUDE = {"none": 0, "rms": MULTIPLY + ADD, "max": COMPARE}
"""An input, of what scales a token's codes; a token's own root and division are neglected."""

_MONOTONE = {"relu", "relu6", "tanh", "sigmoid", "linear"}


def product(macs: int, left_bits: int = 32, right_bits: int = 32) -> float:
    """FLOPs of `macs` multiply-accumulates of operands of these widths; 32 is full precision."""
    if left_bits == right_bits == FULL_PRECISION_BITS:
        return 2.0 * macs
    return 2.0 * macs * left_bits * right_bits / BITS_A_FLOP


def norm(spec: NormSpec) -> int:
    """FLOPs an element of a normalisation."""
    match spec.kind:
        case "layer":
            return LAYER_NORM if spec.bias else LAYER_NORM - ADD
        case "rms":
            return RMS_NORM
        case "affine":
            return AFFINE


def activation(name: str) -> int:
    """FLOPs an element of an activation function; every one but ReLU counts as a GELU."""
    return RELU if name.startswith("relu") else GELU


def thresholds(bits: int, activation_name: str | None = None) -> int:
    """Comparisons that turn one value into its k-bit code, by bisection: one a bit.

    Args:
        bits: of the code.
        activation_name: the function between value and code, where it is folded into the
            thresholds. One that is not monotone, as GELU, takes one more comparison: which side of
            its minimum the value lies on.
    """
    folded = activation_name is not None and activation_name not in _MONOTONE
    return bits + (1 if folded else 0)
