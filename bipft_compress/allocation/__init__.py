"""Bits chosen per module: the least error within a budget of operations and memory."""

from bipft_compress.allocation.allocate import Allocator, check_recipe
from bipft_compress.allocation.targets import Allocation, Row, Targets

__all__ = ["Allocation", "Allocator", "Row", "Targets", "check_recipe"]
