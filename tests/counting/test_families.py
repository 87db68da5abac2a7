"""Counts of every family, against torch's counter and by hand."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bipft_compress.counting.shapes import ModelShape
from bipft_compress.recipe import Recipe
from bipft_compress.reporting import build_report
from bipft_compress.structure.swap import swap

# Batch, length, tokens; and of most tiny models: width, inner width, heads, head width, layers.
B, T, N, H, F, A, D, L = 2, 7, 14, 36, 50, 3, 12, 2
SCORES = B * A * T * T
NO_RANKS = Recipe().with_rank(0)


def torch_macs(model):
    """Multiply-accumulates of all products of one forward pass."""
    # Without gradients, torch's counter fails on modules that are given a parameter.
    model.requires_grad_(False)
    ids = torch.randint(5, 100, (B, T), generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids)
    return counter.get_total_flops() // 2


def rows_not_read(rows):
    """Products of DeBERTa with `rows` of its table that no distance of the sequence reaches.

    In both layers, both tables: the row is projected, and multiplied with every token.
    """
    return L * 2 * rows * (H * H + N * H)


# What the originals compute beyond what they read, which the report leaves out of both counts.
NOT_READ = {
    # Scores and context of the pairs at distances 5 and 6, in layers that slide.
    "modernbert": lambda config: (
        config.layer_types.count("sliding_attention") * 2 * B * (2 * 2 + 2 * 1) * H
    ),
    # 13 distances, 14 rows.
    "deberta": lambda config: rows_not_read(14 - 13),
    # Buckets -5 to 5 of the table's 16: distances of 5 and 6 share one.
    "deberta-v2": lambda config: rows_not_read(16 - 11),
}


@pytest.mark.parametrize("head", ["Model", "ForMaskedLM"])
def test_products_of_both_models(make_model, family, head):
    model = make_model(family, head)
    report = build_report(model, NO_RANKS, batch=B, sequence_length=T)
    counted = report.operations.by_bits["full_precision"].macs
    assert set(counted) == {"32x32"}
    not_read = NOT_READ.get(family, lambda config: 0)(model.config)
    assert counted["32x32"] == torch_macs(model) - not_read
    # The binary model computes the same, but for projections of distances, which are folded.
    binary = report.operations.by_bits["compressed"].macs
    assert set(binary) <= {"1x1", "32x32"}
    folded = {"deberta": 13, "deberta-v2": 11}.get(family, 0)
    assert sum(binary.values()) == counted["32x32"] - L * 2 * folded * H * H


@pytest.mark.parametrize("head", ["Model", "ForMaskedLM"])
def test_bytes_of_the_original(make_model, family, head):
    model = make_model(family, head)
    numbers = sum(parameter.numel() for parameter in model.parameters())
    report = build_report(model, NO_RANKS, sequence_length=T)
    assert report.model.parameters == numbers
    memory = report.memory
    assert memory.full_precision_bytes == 4 * numbers
    assert sum(part.full_precision_bytes for part in memory.parts) == 4 * numbers
    assert sum(part.compressed_bytes for part in memory.parts) == memory.compressed_bytes
    # Only these two keep in another form, or not at all, what the original stores.
    not_stored = [part.name for part in memory.parts if not part.compressed_bytes]
    assert len(not_stored) == (family in ("deberta", "deberta-v2", "roformer"))
    swap(model, NO_RANKS)
    assert build_report(model, NO_RANKS, sequence_length=T).memory == memory


@pytest.mark.parametrize("window", [0, 1, 3, 5, 6, 7, None])
def test_pairs_within_a_window(window):
    shape = ModelShape(batch=3, length=7, tables=(), layers=(), outside=(), readout=None)
    near = [1 for q in range(7) for k in range(7) if window is None or abs(q - k) <= window]
    assert shape.pairs(window) == 3 * len(near)


def counts(make_model, family, recipe=None, **config):
    recipe = Recipe.load(recipe or {}).with_rank(0)
    report = build_report(
        make_model(family, **config), recipe, batch=B, sequence_length=T
    ).operations
    return report.by_kind, report.by_bits["compressed"].integer_comparisons


def test_grouped_queries_gate_root_mean_square_and_rotary_by_hand(make_model):
    """EuroBERT: 4 heads of 12, 2 of them for keys and values, inner width 50."""
    width, keys = 48, 24
    kinds, integers = counts(make_model, "eurobert")
    assert kinds["linear"].macs == L * N * (2 * width**2 + 2 * width * keys + 3 * width * F)
    scores = B * 4 * T * T
    assert kinds["attention"].macs == L * 2 * scores * 12
    # 4 a number: square, sum, division, gain; one more norm at the end.
    assert kinds["layer_norm"].full_precision == (2 * L + 1) * N * 4 * width
    assert kinds["positions"].full_precision == L * N * 3 * (width + keys)
    # The activation of the gate, then the product with the other half.
    assert kinds["activation"].full_precision == L * N * (12 + 1) * F
    for same in ("layer_norm", "positions", "activation"):
        assert kinds[same].compressed == kinds[same].full_precision
    # No biases. Scales: of queries and keys, which turn; of gate, up, output and down.
    assert kinds["epilogue"].full_precision == L * N * 2 * width
    floats = width + keys + 2 * F + 2 * width
    assert kinds["epilogue"].compressed == L * N * (2 * floats + 2 * width)
    # Codes in floating point: inputs of q, k, v, up and gate; queries and keys; inner values.
    assert kinds["thresholds"].compressed == L * N * (5 * width + width + keys + F)
    # Values, context and probabilities on integers.
    assert integers == L * (N * (keys + width) + scores)
    assert kinds["softmax"].compressed == L * 2 * scores


def test_sliding_windows_by_hand(make_model):
    """ModernBERT: some layers attend to distances up to 4 only."""
    kinds, _ = counts(make_model, "modernbert")
    types = make_model("modernbert").config.layer_types
    near = 7 + 2 * (6 + 5 + 4 + 3)
    pairs = sum(near if kind == "sliding_attention" else 49 for kind in types)
    assert kinds["attention"].macs == 2 * B * pairs * A * D
    assert kinds["softmax"].full_precision == 14 * B * pairs * A
    # 6 a number without a bias; the first layer has no norm before its attention.
    norms = 2 * len(types) - 1 + 1
    assert kinds["layer_norm"].full_precision == norms * N * 6 * H


def test_a_position_bias_has_a_table_of_exponentials_too(make_model):
    kinds, integers = counts(make_model, "mpnet")
    assert kinds["positions"].full_precision == L * SCORES
    assert kinds["positions"].compressed == 0
    # Mask, one exponential times the other, sum.
    assert kinds["softmax"].compressed == L * 3 * SCORES
    # Inputs of q, k, v and up, and now the probabilities.
    assert kinds["thresholds"].compressed == L * (N * 4 * H + SCORES)
    assert integers == L * N * (3 * H + H + 2 * F)


def test_a_position_bias_at_more_bits_is_added(make_model):
    kinds, _ = counts(make_model, "mpnet", {"activations": {"bits": 2}})
    assert kinds["positions"].full_precision == kinds["positions"].compressed == L * SCORES
    assert kinds["softmax"].compressed == L * 14 * SCORES
    # Words and positions; the table of biases is looked up for every pair, once for all layers.
    decode = N * 2 * H + T * T * A
    assert kinds["embeddings"].compressed - kinds["embeddings"].full_precision == decode


def test_a_position_bias_of_boolean_attention(make_model):
    recipe = {"activations": {"attention": "boolean"}}
    kinds, _ = counts(make_model, "mpnet", recipe)
    # The integer is scaled before the bias is added to it.
    assert kinds["softmax"].compressed == L * SCORES
    assert kinds["thresholds"].compressed == L * (N * 4 * H + SCORES)


@pytest.mark.parametrize(("family", "rows"), [("deberta", 13), ("deberta-v2", 11)])
def test_disentangled_positions_by_hand(make_model, family, rows):
    bits = {"activations": {"bits": 2, "key_value_bits": 4}}
    kinds, _ = counts(make_model, family, bits)
    products, scores = N * rows * H, SCORES * D
    assert kinds["attention"].macs == L * 2 * (scores + products)
    # Contents by contents 2 x 4 bits; queries 2 x 1; keys 4 x 1.
    flops = 2 * (2 * scores * 8 + products * 2 + products * 4) / 64
    assert kinds["attention"].compressed == L * flops
    # The original projects the distances twice, and adds two terms; ours are scaled too.
    assert kinds["positions"].full_precision == L * (2 * 2 * rows * H * H + 2 * SCORES)
    assert kinds["positions"].compressed == L * 2 * 2 * SCORES
    assert kinds["softmax"].compressed == L * 14 * SCORES


def test_layers_that_share_weights_run_as_often_as_they_are_called(make_model):
    """ALBERT: four calls of two stored layers."""
    calls = 4
    kinds, integers = counts(make_model, "albert")
    assert kinds["linear"].macs == calls * N * (4 * H * H + 2 * H * F)
    assert kinds["softmax"].compressed == calls * 2 * SCORES
    assert integers == calls * (N * (3 * H + H + 2 * F) + SCORES)
    report = build_report(make_model("albert"), NO_RANKS, sequence_length=T)
    assert (report.model.layers, report.model.stored_layers) == (4, 2)
    weights = [part for part in report.memory.parts if part.kind == "linear_weights"]
    assert len(weights) == 2 * 6
    part = next(p for p in report.operations.parts if p.name.endswith("attention.query"))
    assert part.note == "runs 2 times"


def test_bottleneck_by_hand(make_model):
    """MobileBERT: blocks of width 24 between hidden states of 36, two feed-forward networks."""
    narrow, heads = 24, 3
    kinds, _ = counts(make_model, "mobilebert")
    around = 2 * H * narrow + narrow * H
    attention = 2 * narrow * narrow + H * narrow + narrow * narrow
    assert kinds["linear"].macs == L * N * (around + attention + 2 * 2 * narrow * F)
    assert kinds["attention"].macs == L * 2 * B * heads * T * T * (narrow // heads)
    # Gain and bias: two of the bottleneck, attention, two networks; one back at full width.
    assert kinds["layer_norm"].full_precision == L * N * 2 * (5 * narrow + H)
    assert kinds["layer_norm"].compressed == kinds["layer_norm"].full_precision
    # Biases of everything, and the sums after attention, both networks and the bottleneck.
    biases = (2 * narrow + H) + 4 * narrow + 2 * (F + narrow)
    sums = 3 * narrow + H
    assert kinds["epilogue"].full_precision == L * N * (biases + sums)


def test_adapters_stay_in_full_precision(make_model):
    """X-MOD: of two languages, each token passes the adapter of one."""
    model = make_model("xmod")
    inner = H // model.config.adapter_reduction_factor
    report = build_report(model, NO_RANKS, batch=B, sequence_length=T)
    kept = report.operations.by_kind["kept"]
    assert kept.macs == L * N * 2 * H * inner
    assert kept.compressed == kept.full_precision == L * N * (2 * 2 * H * inner + H + inner)
    languages = 2
    stored = report.memory.by_kind["kept"]
    assert stored.full_precision_bytes == 4 * L * languages * 2 * H * inner
    assert stored.compressed_bytes == 2 * L * languages * 2 * H * inner


def test_a_language_is_not_needed(make_model):
    named = build_report(make_model("xmod"), NO_RANKS, sequence_length=T)
    model = make_model("xmod", default_language=None)
    assert build_report(model, NO_RANKS, sequence_length=T).operations == named.operations


def test_convolution_stays_in_full_precision(make_model):
    """DeBERTa-v2's largest models have one after their first layer."""
    model = make_model("deberta-v2", conv_kernel_size=3)
    report = build_report(model, NO_RANKS, batch=B, sequence_length=T)
    kept = report.operations.by_kind["kept"]
    assert kept.macs == N * 3 * H * H
    assert kept.compressed == kept.full_precision == N * (2 * 3 * H * H + H)
    assert report.memory.by_kind["kept"].compressed_bytes == 2 * 3 * H * H
    torch_products = torch_macs(model) - NOT_READ["deberta-v2"](model.config)
    assert report.operations.by_bits["full_precision"].macs["32x32"] == torch_products
