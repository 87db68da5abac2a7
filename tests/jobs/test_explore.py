"""The curve of a tiny model, and the cheapest bits that keep a share of its quality."""

from __future__ import annotations

import json

import pytest

from bipft_compress import jobs, load
from bipft_compress.allocation import Targets
from bipft_compress.errors import UserError
from bipft_compress.jobs.explore import explore
from bipft_compress.jobs.keep import Keep
from bipft_compress.recipe import Recipe

RECIPE = Recipe.load(
    {
        "embeddings": {"code": "sign"},
        "initialisation": {"calibration_tokens": 400, "sequence_length": 16, "batch_tokens": 200},
    }
)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    words = [f"{a}{b} {c}{a} {b}{c} {a}." for a in "abcd" for b in "efgh" for c in "ijkl"]
    path.write_text("\n".join(words), encoding="utf-8")
    return path


def test_explore_writes_a_curve_that_rises(make_checkpoint, text, tmp_path):
    curve = explore(
        make_checkpoint("bert"), RECIPE, tmp_path / "curve", calibration=text, budgets=3
    )
    assert [point.memory for point in curve.points] == sorted(
        (point.memory for point in curve.points), reverse=True
    )
    assert curve.points[-1].error < curve.points[0].error
    assert curve.points[-1].likeness > curve.points[0].likeness
    written = json.loads((tmp_path / "curve" / "curve.json").read_text(encoding="utf-8"))
    assert written == json.loads(curve.model_dump_json())
    for name in ("curve.md", "curve.html"):
        assert (tmp_path / "curve" / name).stat().st_size > 500
    with pytest.raises(UserError, match="--budgets 1"):
        explore("x", RECIPE, tmp_path / "other", budgets=1)


def test_keep_takes_the_cheapest_that_keeps_enough(make_checkpoint, text, tmp_path):
    source = make_checkpoint("bert")
    little, much = (
        jobs.compress_checkpoint(
            source, RECIPE, tmp_path / f"kept-{share}", calibration=text, keep=Keep(share)
        )
        for share in (0.05, 0.99)
    )
    assert little.layer_errors[-1] > much.layer_errors[-1]
    jobs.pack_checkpoint(tmp_path / "kept-0.99", tmp_path / "packed")
    assert load(tmp_path / "packed")[2].recipe.modules == much.recipe.modules != {}
    with pytest.raises(UserError, match="cannot be reached"):
        jobs.compress_checkpoint(source, RECIPE, tmp_path / "all", calibration=text, keep=Keep(1.0))


def test_what_makes_no_sense_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--keep 1\.5"):
        Keep(1.5)
    with pytest.raises(UserError, match="not both"):
        jobs.compress_checkpoint(
            "x", RECIPE, tmp_path / "out", targets=Targets(memory=2.0), keep=Keep(0.5)
        )
