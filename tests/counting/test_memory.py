import pytest

from bipft_compress.counting.memory import packed
from bipft_compress.recipe import Recipe
from bipft_compress.reporting import report_from_config

H, F, L, WORDS, POSITIONS = 36, 50, 2, 101, 16
VECTOR = 2  # bytes of a number by the recipe's default


def memory(config, **recipe):
    made = Recipe.load({"estimators": dict.fromkeys(Recipe().estimators.ranks(), 0), **recipe})
    return report_from_config(config, made, sequence_length=7).memory


@pytest.mark.parametrize(
    ("rows", "columns", "bits", "size"),
    [(3, 8, 1, 3), (3, 9, 1, 6), (2, 33, 4, 34), (5, 1, 16, 10)],
)
def test_rows_start_on_whole_bytes(rows, columns, bits, size):
    assert packed(rows, columns, bits) == size


def test_bert_base_has_its_418_mib(bert_base):
    assert bert_base.model.parameters == 109_482_240
    assert bert_base.memory.full_precision_bytes == 4 * 109_482_240


def test_compressed_by_hand(tiny_config):
    weights = 4 * H * 5 + F * 5 + H * 7  # 36 bits fill 5 bytes, 50 bits 7
    linear_vectors = 4 * (2 * H + H + 1) + (2 * F + H + 1) + (2 * H + F + 1)
    attention_vectors = 3 * H + 3 * 3 + 3 + 3 + H + H
    norms = 2 * 2 * H
    frequent = 10 * 18 + 10 * 2 + 13  # 4 bits a number, a scale a row, a bit a word
    rare = 91 * 3 + 3 * 256 * (12 + 2)  # 3 codes a word; centroids of 12 bytes and a scale
    positions = (POSITIONS + 2) * (H + 2)
    pooler = H * (H + 2)
    vectors = L * (linear_vectors + attention_vectors + norms) + 2 * H + H
    found = memory(tiny_config)
    assert found.by_kind["linear_weights"].compressed_bytes == L * weights
    assert found.by_kind["word_embeddings"].compressed_bytes == frequent + rare
    assert found.by_kind["position_embeddings"].compressed_bytes == positions
    assert found.by_kind["pooler"].compressed_bytes == pooler
    assert found.by_kind["vectors"].compressed_bytes == VECTOR * vectors
    total = L * weights + frequent + rare + positions + pooler + VECTOR * vectors
    assert found.compressed_bytes == total
    assert found.ratio == found.full_precision_bytes / total


def test_other_codes_of_the_embeddings(tiny_config):
    sign = memory(tiny_config, embeddings={"code": "sign"}).by_kind["word_embeddings"]
    assert sign.compressed_bytes == WORDS * (5 + 2)
    full = memory(tiny_config, embeddings={"code": "full"}).by_kind["word_embeddings"]
    assert full.compressed_bytes == full.full_precision_bytes == WORDS * H * 4


@pytest.mark.parametrize("bits", [4, 8, 16, 32])
def test_bits_of_what_is_kept(tiny_config, bits):
    found = memory(tiny_config, kept={"position_embeddings": bits, "pooler": bits, "vectors": 32})
    scale = 2 if bits <= 8 else 0
    row = H * bits // 8 + scale
    assert found.by_kind["position_embeddings"].compressed_bytes == (POSITIONS + 2) * row
    assert found.by_kind["pooler"].compressed_bytes == H * row
    assert found.by_kind["vectors"].compressed_bytes == 2 * (
        memory(tiny_config).by_kind["vectors"].compressed_bytes
    )


@pytest.mark.parametrize("bits", [16, 32])
def test_estimators(tiny_config, bits):
    ranks = {"ffn_up": 2, "scores": 3, "bits": bits}
    found = memory(tiny_config, estimators={**Recipe().with_rank(0).estimators.ranks(), **ranks})
    numbers = L * (2 * (H + F) + 2 * 3 * 12 * 3)
    assert found.by_kind["estimators"].compressed_bytes == numbers * bits // 8
    assert found.by_kind["estimators"].full_precision_bytes == 0


def test_parts_add_up(bert_base):
    found = bert_base.memory
    assert sum(part.compressed_bytes for part in found.parts) == found.compressed_bytes
    assert sum(part.full_precision_bytes for part in found.parts) == found.full_precision_bytes
    weight = next(part for part in found.parts if part.kind == "linear_weights")
    assert weight.bits_per_weight == 1
