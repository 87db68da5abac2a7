"""Tables on the compiled kernels give what they give in torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from bipft_compress.runtime import ops
from bipft_compress.runtime.embedding import PackedFrequencyAwareEmbedding, PackedRoundedEmbedding
from bipft_compress.runtime.native import PATH_VARIABLE, REFERENCE, paths
from bipft_compress.storage.bits import pack_fields, unpack_fields, unpack_signs
from bipft_compress.storage.codec import decode_rows

COMPILED = [path for path in paths() if path != REFERENCE]
BITS = st.sampled_from([1, 4, 8])


def random_table(rows, columns, bits, generator):
    """Any bytes; steps of fp16, subnormal ones among them."""
    size = rows, -(-columns * bits // 8)
    packed = torch.randint(256, size, generator=generator, dtype=torch.uint8)
    steps = torch.rand(rows, 1, generator=generator) ** 8
    return packed, steps.half()


def decoded(packed, scale, bits, columns):
    if bits == 1:
        return unpack_signs(packed, columns) * scale.float()
    return decode_rows(packed, scale, bits, columns)


def random_words(frequent, rare, columns, part, generator):
    """Words by frequency, those that are frequent strewn among the rare."""
    parts = -(-columns // part)
    order = torch.randperm(frequent + rare, generator=generator)
    codes = torch.randint(256, (rare, parts), generator=generator, dtype=torch.uint8)
    words = PackedFrequencyAwareEmbedding(
        PackedRoundedEmbedding(*random_table(frequent, columns, 4, generator), 4, columns),
        PackedRoundedEmbedding(*random_table(256 * parts, part, 8, generator), 8, part),
        codes,
        pack_fields((torch.arange(frequent + rare) < frequent)[order], 1),
        columns,
    )
    words.refresh()
    return words


@pytest.mark.parametrize("path", COMPILED)
@settings(max_examples=60)
@given(
    rows=st.integers(1, 40), columns=st.integers(1, 300), bits=BITS, count=st.integers(1, 9),
    seed=st.integers(0, 2**32),
)  # fmt: skip
def test_rows_are_the_same_numbers_and_products_the_same_but_for_rounding(
    path, rows, columns, bits, count, seed
):
    generator = torch.Generator().manual_seed(seed)
    packed, scale = random_table(rows, columns, bits, generator)
    table = decoded(packed, scale, bits, columns)
    ids = torch.randint(rows, (count, 3), generator=generator)
    assert torch.equal(ops.rows(ids, packed, scale, bits, columns, path), table[ids])
    x = torch.randn(2, count, columns, generator=generator)
    for bias in (None, torch.randn(rows, generator=generator)):
        expected = F.linear(x.double(), table.double(), None if bias is None else bias.double())
        y = ops.linear(x, packed, scale, bias, bits, path)
        torch.testing.assert_close(y, expected.float(), atol=1e-3 * scale.max().item(), rtol=1e-5)


@settings(max_examples=60)
@given(
    frequent=st.integers(1, 30), rare=st.integers(1, 30), columns=st.integers(1, 120),
    part=st.integers(1, 20), seed=st.integers(0, 2**32),
)  # fmt: skip
def test_words_are_the_same_numbers(frequent, rare, columns, part, seed):
    generator = torch.Generator().manual_seed(seed)
    words = random_words(frequent, rare, columns, part, generator)
    words._path = REFERENCE
    expected = words.weight
    for path in COMPILED:
        words._path = path
        assert torch.equal(words.weight, expected)
        ids = torch.randint(frequent + rare, (2, 7), generator=generator)
        assert torch.equal(words(ids), expected[ids])
        assert torch.equal(words(ids.int().T), expected[ids.T])


def test_any_number_of_threads_gives_the_same_bits():
    generator = torch.Generator().manual_seed(0)
    words = random_words(40, 90, 50, 12, generator)
    packed, scale = random_table(70, 50, 4, generator)
    x, before, found = torch.randn(3, 50, generator=generator), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append((words.weight, ops.linear(x, packed, scale, None, 4, COMPILED[0])))
    finally:
        torch.set_num_threads(before)
    for rows, y in found[1:]:
        assert torch.equal(rows, found[0][0])
        assert torch.equal(y, found[0][1])


@pytest.mark.parametrize("path", COMPILED)
@pytest.mark.parametrize("wrong", [-1, 130, 2**40])
def test_ids_beyond_the_table_are_refused(path, wrong, monkeypatch):
    monkeypatch.setenv(PATH_VARIABLE, path)
    words = random_words(40, 90, 50, 12, torch.Generator().manual_seed(0))
    ids = torch.tensor([3, wrong])
    for table in (words, words.frequent):
        with pytest.raises(IndexError, match="beyond the rows"):
            table(ids)


def test_tables_that_do_not_fit_are_refused():
    path, generator = COMPILED[0], torch.Generator().manual_seed(0)
    packed, scale = random_table(9, 50, 4, generator)
    ids, x = torch.tensor([1]), torch.randn(2, 50)
    for wrong in ((packed, scale[:-1], 4, 50), (packed, scale, 4, 60), (packed, scale, 3, 50)):
        with pytest.raises(ValueError, match=r"row|bits"):
            ops.rows(ids, *wrong, path)
    with pytest.raises(ValueError, match="match"):
        ops.linear(x, packed, scale, torch.zeros(8), 4, path)
    words = random_words(9, 30, 50, 12, generator)
    words.before = words.before[:-1]
    with pytest.raises(ValueError, match="flags"):
        words(ids)
    words = random_words(9, 30, 50, 12, generator)
    words.codes = words.codes[:, :-1].contiguous()
    with pytest.raises(ValueError, match="parts"):
        words(ids)
    # Flags that mark more words than there are rows must not be followed out of the table.
    words = random_words(9, 31, 50, 12, generator)
    words.is_frequent = torch.full_like(words.is_frequent, 255)
    with pytest.raises(IndexError, match="flags"):
        words(torch.tensor([7]) + 8 * 4)


def test_operators_are_visible_to_export_and_compile():
    path, generator = COMPILED[0], torch.Generator().manual_seed(0)
    packed, scale = random_table(9, 50, 4, generator)
    words, ids = random_words(9, 30, 50, 12, generator), torch.tensor([[1, 20], [38, 0]])
    called = torch.ops.bipft_compress
    torch.library.opcheck(called.rows.default, (ids % 9, packed, scale, 4, 50, path))
    x, bias = torch.randn(2, 3, 50), torch.randn(9)
    torch.library.opcheck(called.linear.default, (x, packed, scale, bias, 4, path))
    exported = torch.export.export(words, (ids,)).module()
    assert torch.equal(exported(ids), words(ids))
    assert unpack_fields(words.is_frequent, 1, 39).sum() == 9
