"""Binary layers and the pieces they are made of. Knows nothing of model families or files."""

from bipft_compress.nn.attention import FullAttention
from bipft_compress.nn.binary_attention import BinaryAttention
from bipft_compress.nn.block import Block
from bipft_compress.nn.embedding import (
    CompressedEmbedding,
    FrequencyAwareEmbedding,
    SignEmbedding,
    TiedDecoder,
)
from bipft_compress.nn.estimator import HeadwiseEstimator, LowRankEstimator, SharedEstimator
from bipft_compress.nn.linear import BinaryLinear
from bipft_compress.nn.norm import Affine
from bipft_compress.nn.quantizers import (
    quantize_activation,
    quantize_probability,
    sign,
    signed_codes,
    weight_codes,
    weight_sign,
)
from bipft_compress.nn.readout import Readout
from bipft_compress.nn.rounding import RowRounding, round_rows, set_values

__all__ = [
    "Affine",
    "BinaryAttention",
    "BinaryLinear",
    "Block",
    "CompressedEmbedding",
    "FrequencyAwareEmbedding",
    "FullAttention",
    "HeadwiseEstimator",
    "LowRankEstimator",
    "Readout",
    "RowRounding",
    "SharedEstimator",
    "SignEmbedding",
    "TiedDecoder",
    "quantize_activation",
    "quantize_probability",
    "round_rows",
    "set_values",
    "sign",
    "signed_codes",
    "weight_codes",
    "weight_sign",
]
