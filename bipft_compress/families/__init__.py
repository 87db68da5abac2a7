"""Model families: where they keep their modules. Knows nothing of binarization's arithmetic."""

from bipft_compress.families.encoder import (
    LINEAR_KINDS,
    Encoder,
    EncoderLayer,
    check_supported,
    describe,
    get_module,
    head_parameters,
    max_sequence_length,
    set_module,
)
from bipft_compress.families.table import FAMILIES, Family

__all__ = [
    "FAMILIES",
    "LINEAR_KINDS",
    "Encoder",
    "EncoderLayer",
    "Family",
    "check_supported",
    "describe",
    "get_module",
    "head_parameters",
    "max_sequence_length",
    "set_module",
]
