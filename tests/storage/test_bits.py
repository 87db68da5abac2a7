"""The bit order, at ragged widths."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bipft_compress.storage.bits import pack_fields, pack_signs, unpack_fields, unpack_signs


@given(
    st.sampled_from([1, 3, 33, 63, 100]), st.sampled_from([1, 2, 4, 8]), st.integers(0, 2**32 - 1)
)
def test_fields_round_trip(count, width, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 2**width, (2, 3, count), generator=generator, dtype=torch.uint8)
    packed = pack_fields(values, width)
    assert packed.shape == (2, 3, -(-count * width // 8))
    assert torch.equal(unpack_fields(packed, width, count), values)


def test_the_order_is_least_significant_first():
    assert pack_fields(torch.tensor([1, 0, 0, 0, 0, 0, 0, 1, 1]), 1).tolist() == [0x81, 1]
    assert pack_fields(torch.tensor([0xA, 0x3, 0x7]), 4).tolist() == [0x3A, 0x07]


@pytest.mark.parametrize("count", [1, 3, 33, 63, 100])
def test_zero_and_minus_zero_are_plus_one(count):
    x = torch.tensor([0.0, -0.0, -1e-30, 5.0]).repeat(100)[:count]
    signs = unpack_signs(pack_signs(x), count)
    assert torch.equal(signs, torch.tensor([1.0, 1.0, -1.0, 1.0]).repeat(100)[:count])
