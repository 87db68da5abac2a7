"""Model families: how their layers are read into blocks. Knows nothing of binarization."""

from bipft_compress.families.calls import max_sequence_length
from bipft_compress.families.encoder import (
    Encoder,
    EncoderLayer,
    apply_pooling_layer,
    check_supported,
    describe,
    drop_pooler,
    get_module,
    head_parameters,
    set_module,
    teacher_of,
    use_blocks,
)
from bipft_compress.families.family import Family
from bipft_compress.families.table import FAMILIES

__all__ = [
    "FAMILIES",
    "Encoder",
    "EncoderLayer",
    "Family",
    "apply_pooling_layer",
    "check_supported",
    "describe",
    "drop_pooler",
    "get_module",
    "head_parameters",
    "max_sequence_length",
    "set_module",
    "teacher_of",
    "use_blocks",
]
