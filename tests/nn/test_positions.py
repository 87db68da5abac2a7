"""Rotary angles are products of complex numbers, distances those of transformers' DeBERTa."""

from __future__ import annotations

import pytest
import torch
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

from bipft_compress.nn.positions import relative_index, relative_offsets, rotate, within_window
from bipft_compress.spec import RelativeSpec, RotarySpec

CPU = torch.device("cpu")
LENGTH, DIM = 7, 6


def _pairs(x: torch.Tensor, pairs: str) -> torch.Tensor:
    """The complex numbers that the numbers of a head are."""
    if pairs == "halves":
        first, second = x[..., : DIM // 2], x[..., DIM // 2 :]
    else:
        first, second = x[..., ::2], x[..., 1::2]
    return torch.complex(first, second)


@pytest.mark.parametrize("pairs", ["halves", "neighbours"])
@pytest.mark.parametrize("batch", [1, 2])
def test_turning_is_a_product_of_complex_numbers(pairs, batch):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, LENGTH, DIM, generator=generator)
    angles = torch.randn(batch, LENGTH, DIM // 2, generator=generator)
    both = (
        angles.repeat(1, 1, 2) if pairs == "halves" else angles.repeat_interleave(2, -1)
    )  # both numbers of a pair have the angle of the pair
    turned = rotate(x, (both.cos(), both.sin()), RotarySpec(pairs))
    expected = _pairs(x, pairs) * torch.polar(torch.ones_like(angles), angles).unsqueeze(1)
    torch.testing.assert_close(_pairs(turned, pairs), expected)


def test_scores_of_turned_heads_depend_on_the_distance_alone():
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, DIM, generator=generator).expand(2, 1, 1, LENGTH, DIM)
    angles = torch.arange(LENGTH)[:, None] / 10 ** torch.arange(DIM // 2)
    both = angles.repeat(1, 2).unsqueeze(0)
    query, key = (rotate(x, (both.cos(), both.sin()), RotarySpec()) for x in (query, key))
    scores = (query @ key.mT)[0, 0]
    for distance in range(1 - LENGTH, LENGTH):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert not torch.allclose(scores[0], scores[0, :1])


@pytest.mark.parametrize(
    ("buckets", "farthest"), [(8, 40), (8, 16), (6, 512), (32, 128), (256, 512)]
)
def test_rows_of_buckets_are_those_of_transformers(buckets, farthest):
    length = 600
    spec = RelativeSpec(buckets, buckets, farthest)
    distance = torch.arange(1 - length, length)
    bucket = make_log_bucket_position(distance, buckets, farthest)
    expected = (bucket + buckets).clamp(0, 2 * buckets - 1)
    assert torch.equal(relative_offsets(spec, length), expected)
    # All rows are in use but the first, which no distance reaches.
    assert set(range(1, 2 * buckets)) <= set(expected.tolist())


def test_rows_without_buckets_are_distances_up_to_the_span():
    rows = relative_offsets(RelativeSpec(3), 6)
    assert rows.tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 5, 5, 5]
    index = relative_index(RelativeSpec(3), 6, CPU)
    for query in range(6):
        for key in range(6):
            assert index[query, key] == min(max(query - key + 3, 0), 5)


@pytest.mark.parametrize("spec", [RelativeSpec(11), RelativeSpec(8, 8, 40)])
def test_rows_do_not_follow_the_default_device(spec):
    """They are kept for the next call, which may be that of a model with values."""
    relative_offsets.cache_clear()
    with torch.device("meta"):
        relative_offsets(spec, 9)
    assert relative_index(spec, 9, CPU).device == CPU


def test_within_a_window():
    near = within_window(4, 1, CPU)
    assert near.int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]
    assert torch.equal(within_window(4, 0, CPU), torch.eye(4, dtype=torch.bool))
