"""The curve of a tiny model, and the cheapest bits that keep a share of its quality."""

from __future__ import annotations

import json

import pytest

from bipft_compress import jobs, load
from bipft_compress.allocation import Targets
from bipft_compress.errors import UserError
from bipft_compress.fitting.compress import compress_on
from bipft_compress.jobs import keep
from bipft_compress.jobs.explore import explore, read_peers
from bipft_compress.jobs.keep import Keep
from bipft_compress.recipe import Recipe
from bipft_compress.reporting.curve import Curve, CurvePoint, Peer, render_curve_html

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
    assert curve.points[0].latency_ms is None or curve.points[0].latency_ms > 0
    written = json.loads((tmp_path / "curve" / "curve.json").read_text(encoding="utf-8"))
    assert written == json.loads(curve.model_dump_json())
    for name in ("curve.md", "curve.html"):
        assert (tmp_path / "curve" / name).stat().st_size > 500
    with pytest.raises(UserError, match="--budgets 1"):
        explore("x", RECIPE, tmp_path / "other", budgets=1)


def test_other_systems_are_drawn_beside(make_checkpoint, tmp_path):
    figures, data = tmp_path / "figures.json", tmp_path / "pairs.tsv"
    rows = {
        "original": {"bytes": 100, "scores": {"sts_spearman_pairs": 0.9}},
        "a static table": {"bytes": 10, "scores": {"sts_spearman_pairs": 0.7}},
        "this package, demo": {"bytes": 5, "scores": {"sts_spearman_pairs": 0.6}},
    }
    figures.write_text(json.dumps({"rows": rows}), encoding="utf-8")
    assert read_peers(figures, data) == [Peer(name="a static table", memory=10.0, score=0.7)]
    curve = Curve(
        checkpoint="c", score=0.9, peers=read_peers(figures, data), provenance={},
        points=[
            CurvePoint(operations=9, memory=m, error=0.1, likeness=0.9, score=0.8, command="x")
            for m in (20.0, 10.0)
        ],
    )  # fmt: skip
    page = render_curve_html(curve)
    assert "a static table" in page
    assert "BiT 1-1-4" in page
    # A split has the name that evaluate gives it.
    renamed = {
        name: row | {"scores": {"sts_spearman_STS-B-dev": row["scores"]["sts_spearman_pairs"]}}
        for name, row in rows.items()
    }
    of_split = tmp_path / "split.json"
    of_split.write_text(json.dumps({"rows": renamed}), encoding="utf-8")
    assert read_peers(of_split, tmp_path / "STS-B" / "dev.tsv") == read_peers(figures, data)
    for wrong in (None, tmp_path / "others.tsv"):
        with pytest.raises(UserError, match="has no scores on"):
            read_peers(figures, wrong)


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


def test_keep_goes_on_where_it_was_stopped(make_checkpoint, text, tmp_path, monkeypatch):
    source, made = make_checkpoint("bert"), []

    def run(out: str, most: int = 99):
        def fit(model, recipe, *args, **kwargs):
            if len(made) == most:
                raise KeyboardInterrupt
            made.append(recipe)
            return compress_on(model, recipe, *args, **kwargs)

        made.clear()
        monkeypatch.setattr(keep, "compress_on", fit)
        return jobs.compress_checkpoint(
            source, RECIPE, tmp_path / out, calibration=text, keep=Keep(0.9)
        )

    whole = run("whole")
    needed = len(made)
    assert needed >= 4
    with pytest.raises(KeyboardInterrupt):
        run("halves", most=3)
    again = run("halves")
    # The one that is kept may have to be made once more.
    assert len(made) <= needed - 3 + 1
    assert again.recipe == whole.recipe
    # Every try is in the report.
    assert again.quality == whole.quality
    tries = [name for name in whole.quality["kept_likeness"] if name.startswith("try_")]
    assert needed - 1 <= len(tries) <= needed
    assert not list(tmp_path.glob(".*.tries"))


def test_what_makes_no_sense_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--keep 1\.5"):
        Keep(1.5)
    with pytest.raises(UserError, match="not both"):
        jobs.compress_checkpoint(
            "x", RECIPE, tmp_path / "out", targets=Targets(memory=2.0), keep=Keep(0.5)
        )
