"""Bits chosen for a whole model: targets are reached by exact counts, or refused."""

from __future__ import annotations

import copy

import pytest
import torch

from bipft_compress.allocation import Allocator, Targets, allocate, latency
from bipft_compress.allocation.errors import Choice
from bipft_compress.allocation.sensitivity import sensitivities
from bipft_compress.errors import UserError
from bipft_compress.families import describe, get_module, teacher_of
from bipft_compress.fitting.compress import compress
from bipft_compress.recipe import Recipe
from bipft_compress.reporting import build_report
from bipft_compress.runtime.native import PATH_VARIABLE, REFERENCE, chosen_path

RECIPE = Recipe.load(
    {
        "embeddings": {"code": "sign"},
        "initialisation": {"calibration_tokens": 600, "sequence_length": 16, "batch_tokens": 200},
    }
)


@pytest.fixture(scope="module")
def allocator(make_model, tokenizer, text_file):
    return Allocator(make_model("bert"), tokenizer, RECIPE, text_file, length=16)


@pytest.mark.parametrize(
    "targets", [Targets(memory=4.5), Targets(operations=4.0), Targets(operations=3.0, memory=4.2)]
)
def test_targets_are_reached_by_the_report(allocator, targets):
    allocation = allocator.allocate(targets)
    report = build_report(allocator.model, allocation.recipe, sequence_length=16)
    if targets.operations:
        assert report.operations.ratio >= targets.operations
        assert allocation.operations == pytest.approx(report.operations.ratio)
    if targets.memory:
        assert allocation.memory >= targets.memory
    # Nothing is left on the table: the same choice is found for what was reached.
    again = allocator.allocate(targets)
    assert again == allocation


def test_more_budget_never_leaves_more_error(allocator):
    errors = [allocator.allocate(Targets(memory=memory)).error for memory in (4.7, 4.4, 4.0, 3.5)]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("bits", [(1, 1, 1), (2, 4, 2), (4, 8, 4)])
def test_at_the_cost_of_uniform_bits_the_error_is_no_larger(allocator, bits):
    uniform = allocator.uniform(*bits)
    chosen = allocator.allocate(
        Targets(uniform.operations * (1 - 1e-6), uniform.memory * (1 - 1e-6))
    )
    assert chosen.error <= uniform.error * (1 + 1e-6)


def test_what_cannot_be_had_is_refused_with_the_nearest(allocator):
    with pytest.raises(UserError, match=r"nearest .* is \d+\.\d times less memory"):
        allocator.allocate(Targets(memory=60.0))
    with pytest.raises(UserError, match=r"times fewer operations and .* times less memory"):
        allocator.allocate(Targets(operations=900.0, memory=60.0))


def test_ranks_are_chosen_where_they_pay_and_made(allocator, tokenizer, text_file):
    """At the operations of one bit everywhere there is no room; later estimators are made."""
    part = next(part for part in allocator.parts if part.kind == "linear")
    zero, one = (
        next(
            option
            for choice, option in zip(part.choices, part.options, strict=True)
            if choice == Choice(4, 8, "max", rank)
        )
        for rank in (0, 1)
    )
    assert one.cost.bytes > zero.cost.bytes
    assert one.cost.operations > zero.cost.operations
    chosen = {part.name: part.choices.index(Choice(2, 2, "max", 1)) for part in allocator.parts
              if part.kind == "linear"}  # fmt: skip
    others = {part.name: 0 for part in allocator.parts if part.kind != "linear"}
    recipe = allocator._with_bits(chosen | others)
    made = compress(allocator.model, tokenizer, recipe, text_file)
    assert {get_module(made.model, path).rank for path, _ in made.encoder.linears()} == {1}


needs_kernels = pytest.mark.skipif(chosen_path() == REFERENCE, reason="no kernels were built")


def products(layer, length):
    """Stands in for a measured time, which on a shared machine never comes twice the same."""
    linears = sum(bits.weight_bits * bits.bits + bits.rank for bits in layer.linears.values())
    return 1e-6 * length * (linears + layer.attention.bits)


def test_a_latency_is_reached_or_refused(allocator, monkeypatch):
    monkeypatch.setattr(allocate, "layer_seconds", products)
    monkeypatch.setattr(latency, "layer_seconds", products)
    loose = allocator.allocate(Targets(memory=3.0, latency_ms=1e6))
    assert loose.rows == allocator.allocate(Targets(memory=3.0)).rows
    tight = allocator.allocate(Targets(memory=3.0, latency_ms=0.7 * loose.latency_ms))
    assert tight.latency_ms <= 0.7 * loose.latency_ms
    assert tight.error > loose.error
    with pytest.raises(UserError, match=r"nearest .* is .* ms"):
        allocator.allocate(Targets(latency_ms=1e-6))


@needs_kernels
def test_a_latency_is_measured_once_for_each_choice_of_bits(allocator):
    chosen = allocator.allocate(Targets(memory=4.2, latency_ms=1e6))
    assert 0 < chosen.latency_ms < 1e6
    assert allocator.latency_ms(chosen.recipe) == chosen.latency_ms


def test_latency_without_kernels_is_refused(allocator, monkeypatch):
    monkeypatch.setenv(PATH_VARIABLE, REFERENCE)
    with pytest.raises(UserError, match="none runs this model"):
        allocator.allocate(Targets(latency_ms=10.0))
    assert allocator.latency_ms(RECIPE) is None


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_latency_that_is_none_is_refused(value):
    with pytest.raises(UserError, match=r"--target-latency-ms .* above 0"):
        Targets(latency_ms=value)


@pytest.mark.parametrize("value", [1.0, 0.5, float("nan")])
def test_a_target_of_no_saving_is_refused(value):
    with pytest.raises(UserError, match=r"--target-memory .* must be above 1"):
        Targets(memory=value)


def test_a_recipe_that_fixes_bits_is_refused(make_model, tokenizer, text_file):
    recipe = Recipe.load({"modules": {"attention.query": {"weights": 2}}})
    with pytest.raises(UserError, match="fixes bits by module"):
        Allocator(make_model("bert"), tokenizer, recipe, text_file)
    with pytest.raises(UserError, match="boolean"):
        Allocator(make_model("bert"), tokenizer, Recipe.load("bibert"), text_file)


def test_the_recipe_is_what_compress_makes(allocator, tokenizer, text_file):
    """The chosen bits are those of the modules, and survive YAML."""
    allocation = allocator.allocate(Targets(operations=3.0, memory=4.2))
    recipe = Recipe.load(allocation.recipe.model_dump())
    made = compress(allocator.model, tokenizer, recipe, text_file)
    bits = {(row.weights, row.activations) for row in allocation.rows if row.kind == "linear"}
    linears = [get_module(made.model, path) for path, _ in made.encoder.linears()]
    assert {(linear.weight_bits, linear.bits) for linear in linears} == bits


def test_every_family_can_be_measured(make_model, tokenizer, text_file, shape):
    allocator = Allocator(make_model(shape), tokenizer, RECIPE, text_file, length=16)
    assert all(torch.isfinite(torch.tensor(option.error)) for part in allocator.parts
               for option in part.options)  # fmt: skip
    paths = {path for part in allocator.parts for path in part.modules}
    encoder = describe(teacher_of(allocator.model))
    assert {path for path, _ in encoder.linears()} < paths
    assert allocator.allocate(Targets(memory=3.0)).memory >= 3.0


def test_sensitivities_predict_small_errors(make_model, batches):
    """Against the error that noise of known size makes at the end."""
    teacher = teacher_of(make_model("bert"))
    encoder = describe(teacher)
    words, path = encoder.word_embeddings, next(encoder.linears())[0]
    predicted = sensitivities(teacher, [words, path], batches)[path]
    generator = torch.Generator().manual_seed(0)
    noisy, scale = copy.deepcopy(teacher), 1e-3
    error = total = 0.0

    def add_noise(module, args, output):
        return output + scale * torch.randn(output.shape, generator=generator)

    get_module(noisy, path).register_forward_hook(add_noise)
    with torch.no_grad():
        for _ in range(20):
            for batch in batches:
                exact = teacher(batch).last_hidden_state
                error += float((noisy(batch).last_hidden_state - exact).square().sum())
                total += float((exact - exact.mean((0, 1))).square().sum())
    assert error / total == pytest.approx(float(predicted.sum()) * scale**2, rel=0.3)
