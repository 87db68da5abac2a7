"""The curve's page: every point in numbers, in the picture, and with the command that makes it."""

from __future__ import annotations

import pytest

from bipft_compress.reporting.curve import (
    Curve,
    CurvePoint,
    Peer,
    other_systems,
    render_curve_html,
    render_curve_markdown,
)


def _curve(scored: bool) -> Curve:
    points = [
        CurvePoint(
            operations=50.0 / n,
            memory=28.0 / n,
            error=0.9 / n,
            likeness=0.4 + 0.1 * n,
            score=0.6 + 0.05 * n if scored else None,
            command=f"bipft-compress compress <model> --target-memory {28 / n:.1f} --out DIR",
        )
        for n in (1, 2, 3)
    ]
    return Curve(checkpoint="a & b", score=0.87 if scored else None, points=points, provenance={})


@pytest.mark.parametrize("scored", [True, False])
def test_both_forms_hold_every_point(scored):
    curve = _curve(scored)
    html, markdown = render_curve_html(curve), render_curve_markdown(curve)
    for text in (html, markdown):
        for value in ("28.0x", "14.0x", "9.3x", "0.300", "0.700"):
            assert value in text
        assert ("0.8700" in text) == scored
    assert html.count("<svg") == 1
    assert "a &amp; b" in html
    assert "compress &lt;model&gt; --target-memory 14.0" in html
    assert Curve.model_validate_json(curve.model_dump_json()) == curve


def test_other_systems_have_letters_and_published_ones_their_share():
    peers = [Peer(name="int8", memory=3.9, score=0.86), Peer(name="table", memory=90.0, score=0.8)]
    curve = _curve(scored=True).model_copy(update={"peers": peers})
    systems = {system.name: system for system in other_systems(curve)}
    assert "".join(system.mark for system in systems.values()) == "abcdefg"
    assert systems["table"] == ("a", "table", 90.0, 0.8, False)
    assert systems["int8"].mark == "g"
    assert systems["BiT 1-1-1"].score == pytest.approx(72.0 / 90.1 * 0.87)
    html = render_curve_html(curve)
    assert all(system.name in html for system in systems.values())
    # Its score lies far below the curve: it is in the table, and would flatten the picture.
    assert ">BiBERT 1-1-1<" in html
    letters = [part.split("</text>")[0] for part in html.split("<svg")[1].split("<text")[1:]]
    drawn = {text.rpartition(">")[2] for text in letters}
    assert systems["table"].mark in drawn
    assert systems["BiBERT 1-1-1"].mark not in drawn


@pytest.mark.parametrize("original", [0.6, 0.7])
def test_a_curve_above_the_original_or_flat_is_drawn_whole(original):
    curve = _curve(scored=True)
    points = [point.model_copy(update={"score": 0.7}) for point in curve.points]
    html = render_curve_html(curve.model_copy(update={"points": points, "score": original}))
    assert all(f">{point.operations:.0f}x<" in html for point in points)


def test_without_a_score_there_is_nothing_to_compare_with():
    assert other_systems(_curve(scored=False)) == []
