"""What a description of a block says of itself: its linears in order, what they read, its norms."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bipft_compress.recipe import Recipe
from bipft_compress.spec import (
    KINDS,
    AttentionSpec,
    BlockSpec,
    BottleneckSpec,
    FeedForwardSpec,
    NormSpec,
)

NORM = NormSpec(12)
ATTENTION = AttentionSpec(12, 12, 4, 2, 5, 12, 0.5, (True, False, True, False), NORM)
FEED_FORWARD = FeedForwardSpec(12, 30, "gelu", bias=(False, True), norm=NORM)
PLAIN = BlockSpec(12, ATTENTION, (FEED_FORWARD,))
GATED = replace(PLAIN, feed_forward=(replace(FEED_FORWARD, gated=True),))
NARROW = BlockSpec(
    40,
    replace(ATTENTION, value_width=40),
    (FEED_FORWARD, FEED_FORWARD),
    BottleneckSpec(NormSpec(12, kind="affine"), NormSpec(40, kind="affine")),
)
NARROW_VALUES = replace(
    NARROW, attention=ATTENTION, bottleneck=replace(NARROW.bottleneck, narrow_values=True)
)


def _stages(spec: BlockSpec) -> list[list[str]]:
    return [[linear.name for linear in stage] for stage in spec.stages()]


def test_plain():
    assert _stages(PLAIN) == [
        ["attention.query", "attention.key", "attention.value"],
        ["attention.output"],
        ["feed_forward.0.up"],
        ["feed_forward.0.down"],
    ]
    found = {
        linear.name: (linear.kind, linear.inputs, linear.outputs, linear.bias)
        for linear in PLAIN.linears()
    }
    assert found == {
        "attention.query": ("query", 12, 20, True),
        "attention.key": ("key", 12, 10, False),
        "attention.value": ("value", 12, 10, True),
        "attention.output": ("attention_output", 20, 12, False),
        "feed_forward.0.up": ("ffn_up", 12, 30, False),
        "feed_forward.0.down": ("ffn_down", 30, 12, True),
    }
    assert PLAIN.norms() == {"attention.norm": NORM, "feed_forward.0.norm": NORM}


def test_a_gate_reads_what_its_neighbour_reads():
    assert _stages(GATED)[2] == ["feed_forward.0.up", "feed_forward.0.gate"]
    assert [linear.kind for linear in GATED.stages()[2]] == ["ffn_up", "ffn_gate"]


def test_a_bottleneck():
    """Values read the hidden states, beside the linears that narrow them."""
    assert _stages(NARROW) == [
        ["bottleneck.input", "bottleneck.query", "attention.value"],
        ["attention.query", "attention.key"],
        ["attention.output"],
        ["feed_forward.0.up"],
        ["feed_forward.0.down"],
        ["feed_forward.1.up"],
        ["feed_forward.1.down"],
        ["bottleneck.output"],
    ]
    widths = {linear.name: (linear.inputs, linear.outputs) for linear in NARROW.linears()}
    assert widths["bottleneck.input"] == widths["bottleneck.query"] == (40, 12)
    assert widths["attention.value"] == (40, 10)
    assert widths["bottleneck.output"] == (12, 40)
    assert list(NARROW.norms()) == [
        "bottleneck.input_norm",
        "bottleneck.query_norm",
        "attention.norm",
        "feed_forward.0.norm",
        "feed_forward.1.norm",
        "bottleneck.output_norm",
    ]


def test_a_bottleneck_of_all():
    assert _stages(NARROW_VALUES)[:2] == [
        ["bottleneck.input"],
        ["attention.query", "attention.key", "attention.value"],
    ]
    assert "bottleneck.query_norm" not in NARROW_VALUES.norms()


def test_a_norm_that_is_not_there_is_not_named():
    spec = replace(PLAIN, attention=replace(ATTENTION, norm=None))
    assert list(spec.norms()) == ["feed_forward.0.norm"]


@pytest.mark.parametrize("spec", [PLAIN, GATED, NARROW, NARROW_VALUES])
def test_linears_of_a_stage_read_the_same_and_stages_do_not(spec):
    sources = [{linear.source for linear in stage} for stage in spec.stages()]
    assert all(len(own) == 1 for own in sources)
    assert len(set.union(*sources)) == len(sources)
    assert sum(spec.stages(), ()) == spec.linears()
    names = [linear.name for linear in spec.linears()]
    assert len(set(names)) == len(names)


def test_a_recipe_has_a_rank_for_every_kind():
    ranks = Recipe().estimators.ranks()
    assert set(KINDS) == ranks.keys() - {"scores", "context"}
    kinds = {linear.kind for spec in (GATED, NARROW) for linear in spec.linears()}
    assert kinds == set(KINDS)


def test_a_description_is_a_key():
    """Equal ones are one: tables of positions are kept by it."""
    assert hash(PLAIN) == hash(replace(PLAIN))
    assert len({PLAIN, replace(PLAIN), GATED}) == 2
