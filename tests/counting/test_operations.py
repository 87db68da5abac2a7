import pytest
from transformers import BertConfig

from bipft_compress.recipe import Recipe
from bipft_compress.reporting import report_from_config

# The tiny model: batch, length, tokens, width, feed-forward width, heads, head width, layers.
B, T, N, H, F, A, D, L = 2, 7, 14, 36, 50, 3, 12, 2
SCORES = B * A * T * T
LINEAR_MACS = L * N * (4 * H * H + 2 * H * F)
ATTENTION_MACS = L * 2 * SCORES * D


def operations(config, recipe):
    return report_from_config(config, recipe, batch=B, sequence_length=T).operations


def rank(**ranks):
    return (
        Recipe()
        .with_rank(0)
        .model_copy(
            update={"estimators": Recipe().with_rank(0).estimators.model_copy(update=ranks)}
        )
    )


def test_exact_products_of_bert_base(bert_base):
    kinds = bert_base.operations.by_kind
    assert kinds["linear"].macs == 10_871_635_968
    assert kinds["attention"].macs == 301_989_888
    both = kinds["linear"], kinds["attention"]
    assert sum(kind.full_precision for kind in both) == 22_347_251_712
    assert sum(kind.compressed for kind in both) == 349_175_808
    exact = bert_base.operations.by_bits
    assert exact["compressed"].macs == {"1x1": 11_173_625_856, "32x32": 768 * 768}
    assert exact["full_precision"].macs == {"32x32": 11_173_625_856 + 768 * 768}


@pytest.mark.parametrize(("bits", "published"), [(1, 0.4), (2, 0.8), (4, 1.5)])
def test_published_figures_of_bert_base(bits, published):
    recipe = Recipe.load({"activations": {"bits": bits}}).with_rank(0)
    counted = report_from_config(BertConfig(), recipe).operations
    assert round(counted.full_precision / 1e9, 1) == 22.5
    assert round(counted.compressed / 1e9, 1) == published
    assert counted.ratio == counted.full_precision / counted.compressed


def test_full_precision_by_hand(tiny_config):
    layer = (
        N * (4 * H + F + H)  # biases
        + N * 2 * H  # residual adds
        + N * 2 * 7 * H  # LayerNorms
        + N * 12 * F  # GELU
        + 14 * SCORES
    )
    embeddings = N * 2 * H + N * 7 * H
    pooler = 2 * B * H * H + B * H + 8 * B * H
    products = 2 * (LINEAR_MACS + ATTENTION_MACS)
    counted = operations(tiny_config, rank())
    assert counted.full_precision == products + L * layer + embeddings + pooler


def test_compressed_by_hand(tiny_config):
    layer = (
        N * 2 * (H + H)  # scale and bias after attention output and feed-forward
        + N * 2 * H  # residual adds
        + N * 2 * 7 * H  # LayerNorms
        + 2 * SCORES
        + N * 4 * H  # codes of the residual stream for query, key, value and feed-forward
    )
    decode = N * 3 * H  # words, positions and token types have a scale a row
    embeddings = N * 2 * H + N * 7 * H + decode
    pooler = 2 * B * H * H + B * H + 8 * B * H
    products = (LINEAR_MACS + ATTENTION_MACS) / 32
    counted = operations(tiny_config, rank())
    assert counted.compressed == products + L * layer + embeddings + pooler
    # Queries, keys, values and context one a value, GELU two, probabilities one a score.
    comparisons = L * (N * (3 * H + H + 2 * F) + SCORES)
    assert counted.by_bits["compressed"].integer_comparisons == comparisons


def test_more_bits_cost_in_proportion(tiny_config):
    recipe = Recipe.load({"activations": {"bits": 4, "key_value_bits": 2}}).with_rank(0)
    counted = operations(tiny_config, recipe)
    assert counted.by_kind["linear"].compressed == 4 * LINEAR_MACS / 32
    assert counted.by_kind["attention"].compressed == ATTENTION_MACS * 2 * (4 * 2 + 4 * 2) / 2 / 64
    assert counted.by_kind["softmax"].compressed == L * 14 * SCORES
    assert set(counted.by_bits["compressed"].macs) == {"4x1", "4x2", "32x32"}
    # Queries 4 bits, keys and values 2, context 4, GELU 4 and its side; the softmax is in floats.
    comparisons = L * N * (4 * H + 2 * 2 * H + 4 * H + (4 + 1) * F)
    assert counted.by_bits["compressed"].integer_comparisons == comparisons


@pytest.mark.parametrize(
    ("kind", "macs"),
    [
        ("query", N * 2 * (H + H)),
        ("key", N * 2 * (H + H)),
        ("value", N * 2 * (H + H)),
        ("attention_output", N * 2 * (H + H)),
        ("ffn_up", N * 2 * (H + F)),
        ("ffn_down", N * 2 * (F + H)),
        ("scores", N * A * (2 * D * 2) + SCORES * 2),
        ("context", N * A * (2 * D * 2) + SCORES * 2),
    ],
)
def test_a_rank_adds_its_products(tiny_config, kind, macs):
    without, with_rank = (operations(tiny_config, rank(**{kind: r})) for r in (0, 2))
    difference = (
        with_rank.by_bits["compressed"].macs["32x32"] - without.by_bits["compressed"].macs["32x32"]
    )
    assert difference == L * macs
    assert with_rank.by_kind["estimator"].compressed == 2 * L * macs
    assert with_rank.full_precision == without.full_precision


@pytest.mark.parametrize(
    ("kind", "elementwise"),
    [
        # Two a value in floating point, then its code.
        ("query", N * (2 + 1) * H),
        ("value", N * (2 + 1) * H),
        # The context in floating point, then its code.
        ("attention_output", N * (1 + 1) * H),
        # Two thresholds of a GELU, on floats now.
        ("ffn_up", N * (2 + 2) * F),
        # GELU in full, then a single threshold.
        ("ffn_down", N * (2 + 12 + 1) * F),
        # Queries and keys in floating point, the whole softmax, codes of probabilities.
        ("scores", N * 2 * (2 + 1) * H + (14 - 2 + 1) * SCORES),
        # Values and context in floating point.
        ("context", N * (2 + 1) * H + N * (1 + 1) * H),
    ],
)
def test_what_an_estimator_reads_is_floating_point(tiny_config, kind, elementwise):
    without, with_rank = (operations(tiny_config, rank(**{kind: r})) for r in (0, 1))
    difference = (
        with_rank.by_bits["compressed"].elementwise_flops
        - without.by_bits["compressed"].elementwise_flops
    )
    assert difference == L * elementwise


def test_parts_add_up(bert_base):
    counted = bert_base.operations
    assert sum(part.full_precision for part in counted.parts) == counted.full_precision
    assert sum(part.compressed for part in counted.parts) == counted.compressed
    assert sum(kind.compressed for kind in counted.by_kind.values()) == counted.compressed
    exact = counted.by_bits["compressed"]
    products = exact.macs["1x1"] / 32 + 2 * exact.macs["32x32"]
    assert products + exact.elementwise_flops == counted.compressed


def test_relu_needs_one_threshold(tiny_config):
    gelu = operations(tiny_config, rank())
    tiny_config.hidden_act = "relu"
    relu = operations(tiny_config, rank())
    assert relu.by_kind["activation"].full_precision == L * N * F
    difference = (
        gelu.by_bits["compressed"].integer_comparisons
        - relu.by_bits["compressed"].integer_comparisons
    )
    assert difference == L * N * F


def test_bi_attention_has_no_softmax(tiny_config):
    plain = operations(tiny_config, rank())
    boolean = Recipe.load({"activations": {"attention": "boolean"}}).with_rank(0)
    counted = operations(tiny_config, boolean)
    assert counted.by_kind["softmax"].compressed == 0
    assert plain.compressed - counted.compressed == L * 2 * SCORES
    assert counted.full_precision == plain.full_precision


def test_estimators_of_hidden_states_by_hand(tiny_config):
    recipe = rank(scores=1, context=1, attention_reads="hidden-states")
    plain, counted = operations(tiny_config, rank()), operations(tiny_config, recipe)
    scores = 4 * N * H + 2 * B * T * T  # four projections, two outer products
    context = N * (H + A * D) + SCORES
    assert counted.by_kind["estimator"].macs == L * (scores + context)
    extra = 2 * L * (scores + context) + L * SCORES  # the estimate is added in each head
    softmax = L * (14 - 2) * SCORES  # no table any more
    codes = L * (SCORES + N * A * D)  # probabilities and context are coded in floating point
    scale = L * N * A * D  # of the context
    assert counted.compressed - plain.compressed == extra + softmax + codes + scale


def test_bits_of_weights_and_magnitudes_of_tokens_by_hand(tiny_config):
    plain = Recipe.load({"activations": {"bits": 4}}).with_rank(0)
    chosen = Recipe.load(
        {
            "activations": {"bits": 4},
            "weights": {"bits": 3},
            "modules": {"feed_forward.0.down": {"weights": 2, "dynamic_scale": "max"}},
        }
    ).with_rank(0)
    before, after = (operations(tiny_config, recipe) for recipe in (plain, chosen))
    down = L * N * H * F
    assert after.by_bits["compressed"].macs["4x2"] == down
    assert after.by_bits["compressed"].macs["4x3"] == LINEAR_MACS - down
    products = 2 * 4 / 64 * (2 * (LINEAR_MACS - down) + down)
    # A maximum over the inputs, a product an output; and the inner values become numbers: their
    # scale and bias, their GELU, and four comparisons each.
    magnitudes = L * N * (F + H)
    inner = L * N * F * (2 + 12 + 4)
    assert after.compressed - before.compressed == products + magnitudes + inner


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_a_readout_by_hand(tiny_config, pooling):
    """Two hidden states are read; products once a text, weighted sums once a token."""
    chosen = {"rank": 5, "layers": 2, "pooling": pooling}
    counted = operations(tiny_config, Recipe.load({"readout": chosen})).by_kind["readout"]
    read, corrected = (4 * H, B) if pooling == "first" else (2 * H, N)
    assert counted.macs == B * 5 * (read + H)
    assert counted.full_precision == 0
    assert counted.compressed == 2 * counted.macs + B * H + (2 * 2 * N + corrected) * H
