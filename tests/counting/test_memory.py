import pytest

from bipft_compress.counting.memory import packed
from bipft_compress.recipe import Recipe
from bipft_compress.reporting import build_report, report_from_config

H, F, L, WORDS, POSITIONS = 36, 50, 2, 101, 16
VECTOR = 2  # bytes of a number by the recipe's default


def memory(config, **recipe):
    chosen = Recipe.load({"estimators": dict.fromkeys(Recipe().estimators.ranks(), 0), **recipe})
    return report_from_config(config, chosen, sequence_length=7).memory


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
    counted = memory(tiny_config)
    assert counted.by_kind["linear_weights"].compressed_bytes == L * weights
    assert counted.by_kind["word_embeddings"].compressed_bytes == frequent + rare
    assert counted.by_kind["position_embeddings"].compressed_bytes == positions
    assert counted.by_kind["pooler"].compressed_bytes == pooler
    assert counted.by_kind["vectors"].compressed_bytes == VECTOR * vectors
    total = L * weights + frequent + rare + positions + pooler + VECTOR * vectors
    assert counted.compressed_bytes == total
    assert counted.ratio == counted.full_precision_bytes / total


def test_other_codes_of_the_embeddings(tiny_config):
    sign = memory(tiny_config, embeddings={"code": "sign"}).by_kind["word_embeddings"]
    assert sign.compressed_bytes == WORDS * (5 + 2)
    full = memory(tiny_config, embeddings={"code": "full"}).by_kind["word_embeddings"]
    assert full.compressed_bytes == full.full_precision_bytes == WORDS * H * 4


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_planes_of_weights_and_words(tiny_config, bits):
    counted = memory(
        tiny_config, weights={"bits": bits}, embeddings={"code": "sign", "bits": bits},
        modules={"layer.1.block.feed_forward.0.down": {"weights": 1}},
    )  # fmt: skip
    first = 4 * H * 5 + F * 5 + H * 7
    assert counted.by_kind["linear_weights"].compressed_bytes == bits * first + (
        bits * (first - H * 7) + H * 7
    )
    assert counted.by_kind["word_embeddings"].compressed_bytes == WORDS * (bits * 5 + 2)


@pytest.mark.parametrize("bits", [4, 8, 16, 32])
def test_bits_of_what_is_kept(tiny_config, bits):
    counted = memory(tiny_config, kept={"position_embeddings": bits, "pooler": bits, "vectors": 32})
    scale = 2 if bits <= 8 else 0
    row = H * bits // 8 + scale
    assert counted.by_kind["position_embeddings"].compressed_bytes == (POSITIONS + 2) * row
    assert counted.by_kind["pooler"].compressed_bytes == H * row
    assert counted.by_kind["vectors"].compressed_bytes == 2 * (
        memory(tiny_config).by_kind["vectors"].compressed_bytes
    )


@pytest.mark.parametrize("bits", [16, 32])
def test_estimators(tiny_config, bits):
    ranks = {"ffn_up": 2, "scores": 3, "bits": bits}
    counted = memory(tiny_config, estimators={**Recipe().with_rank(0).estimators.ranks(), **ranks})
    numbers = L * (2 * (H + F) + 2 * 3 * 12 * 3)
    assert counted.by_kind["estimators"].compressed_bytes == numbers * bits // 8
    assert counted.by_kind["estimators"].full_precision_bytes == 0


@pytest.mark.parametrize("bits", [4, 32])
def test_a_readout_by_hand(tiny_config, bits):
    counted = memory(tiny_config, readout={"rank": 5, "layers": 2, "bits": bits})
    rows = 5 * -(-2 * H * bits // 8) + H * -(-5 * bits // 8)
    scales = 2 * (5 + H) if bits <= 8 else 0
    assert counted.by_kind["readout"].compressed_bytes == rows + scales + 2 * H + -(-WORDS // 2)
    assert counted.by_kind["readout"].full_precision_bytes == 0


def test_parts_add_up(bert_base):
    counted = bert_base.memory
    assert sum(part.compressed_bytes for part in counted.parts) == counted.compressed_bytes
    assert sum(part.full_precision_bytes for part in counted.parts) == counted.full_precision_bytes
    weight = next(part for part in counted.parts if part.kind == "linear_weights")
    assert weight.bits_per_weight == 1


def test_layers_without_biases_by_hand(make_model):
    """EuroBERT: 4 heads of 12, 2 of them for keys and values; a gate; RMSNorm."""
    counted = build_report(make_model("eurobert"), Recipe().with_rank(0), sequence_length=7).memory
    width, keys, heads, key_heads = 48, 24, 4, 2
    # 48 bits fill 6 bytes, 50 bits 7.
    signs = (2 * width + 2 * keys) * 6 + 2 * F * 6 + width * 7
    assert counted.by_kind["linear_weights"].compressed_bytes == L * signs
    outputs = 2 * width + 2 * keys + 2 * F + width
    inputs = 4 * width + 2 * width + F
    linear_vectors = 2 * outputs + inputs + 7
    shifts = (width + heads) + 2 * (keys + key_heads)
    # Scales of scores and probabilities, of values, and the context's bias.
    attention_vectors = shifts + 2 * heads + 2 * width
    norms = 2 * width
    vectors = L * (linear_vectors + attention_vectors + norms) + width
    assert counted.by_kind["vectors"].compressed_bytes == VECTOR * vectors
    # The original has no vectors but the norms' gains.
    assert counted.by_kind["vectors"].full_precision_bytes == 4 * (L * norms + width)


@pytest.mark.parametrize(
    ("family", "rows", "folded"),
    [
        # The table of 80 distances, and in each layer two projections of it, one with a bias.
        ("deberta", 80, 80 * H + L * (2 * H * H + H)),
        # Buckets, and their norm; projected by what projects queries and keys.
        ("deberta-v2", 16, 16 * H + 2 * H),
    ],
)
def test_tables_of_positions_by_hand(make_model, family, rows, folded):
    counted = build_report(make_model(family), Recipe().with_rank(0), sequence_length=7).memory
    tables = counted.by_kind["attention_positions"]
    # Keys and queries, three heads of 12 bits, which fill 2 bytes.
    assert tables.compressed_bytes == L * 2 * 3 * rows * 2
    assert tables.full_precision_bytes == 4 * folded
    attention = next(part for part in counted.parts if part.name.endswith("attention.core"))
    assert attention.compressed_bytes == VECTOR * (3 * H + 3 * 3 + 3 + 3 + H + H + 2 * 3)


def test_a_fixed_table_is_not_stored(make_model):
    """RoFormer: sines and cosines of 40 positions, a head wide."""
    counted = build_report(make_model("roformer"), Recipe().with_rank(0), sequence_length=7).memory
    part = next(part for part in counted.parts if not part.compressed_bytes)
    assert (part.kind, part.full_precision_bytes) == ("position_embeddings", 4 * 40 * 12)
    assert "not stored" in part.note


def test_shared_layers_are_stored_once(make_model):
    """ALBERT: four calls of two layers."""
    counted = build_report(make_model("albert"), Recipe().with_rank(0), sequence_length=7).memory
    weights = counted.by_kind["linear_weights"]
    assert weights.full_precision_bytes == 4 * 2 * (4 * H * H + 2 * H * F)
    assert weights.compressed_bytes == 2 * (4 * H * 5 + F * 5 + H * 7)
