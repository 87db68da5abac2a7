"""Counts operations and bytes, of the original and of the binary model."""

from bipft_compress.counting.memory import count_memory
from bipft_compress.counting.operations import count_operations
from bipft_compress.counting.papers import papers_convention
from bipft_compress.counting.shapes import ModelShape, read_layers, read_shape

__all__ = [
    "ModelShape",
    "count_memory",
    "count_operations",
    "papers_convention",
    "read_layers",
    "read_shape",
]
