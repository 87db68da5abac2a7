"""Reference runs are made in pieces, and each setting is the run that it says."""

from __future__ import annotations

import importlib
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bipft_compress.checkpoint.record import Record
from bipft_compress.errors import RecipeError
from bipft_compress.recipe import Recipe

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def reference(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("reference")


def test_a_setting_changes_what_it_names_and_nothing_else(reference):
    recipe = Recipe.load("default")
    values = reference.changed(recipe, {"training.learning_rate": 0.5, "readout.rank": 7})
    assert values["training"]["learning_rate"] == 0.5
    assert values["readout"]["rank"] == 7
    values["training"]["learning_rate"] = recipe.training["learning_rate"]
    values["readout"]["rank"] = recipe.readout.rank
    assert Recipe.load(values) == recipe
    with pytest.raises(RecipeError):
        reference.changed(recipe, {"readout.rnak": 7})


@pytest.mark.slow
def test_stopped_and_called_again_it_ends(make_checkpoint, tmp_path):
    lines = [f"{a}b {b}c {c} {a} d{b}." for a in "abcd" for b in "efgh" for c in "ijk"]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    rows = [f"{a},{b},{i % 6}" for i, (a, b) in enumerate(itertools.pairwise(lines))]
    (tmp_path / "pairs.csv").write_text("\n".join(["sentence1,sentence2,score", *rows]))
    values = {
        "initialisation": {"calibration_tokens": 300, "sequence_length": 24},
        "text": {"sequence_length": 24, "shortest": 3},
        "objective": {"hidden_states": 1.0},
        "training": {"per_device_train_batch_size": 4, "save_steps": 1},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    command = [sys.executable, BENCHMARKS / "reference.py", make_checkpoint("bert")]
    command += ["--recipe", tmp_path / "recipe.yaml", "--corpus", tmp_path / "text.txt"]
    command += ["--data", tmp_path / "pairs.csv", "--steps", "3", "--out", tmp_path / "out"]
    command += ["--set", "slow:training.learning_rate=1e-5", "--set", "fast:readout.rank=3"]

    def call(seconds: str) -> dict:
        done = subprocess.run(
            [*map(str, command), "--seconds", seconds], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads((tmp_path / "out" / "scores.json").read_text())["scores"]

    assert call("2") == {}
    scores = call("600")
    assert scores.keys() == {"slow", "fast"}
    records = {name: Record.read(tmp_path / "out" / name / "packed") for name in scores}
    assert scores == {name: record.quality for name, record in records.items()}
    assert scores["slow"]["sts_spearman"]["pairs"] == len(rows)
    recipes = {name: record.recipe for name, record in records.items()}
    assert recipes["slow"].training["learning_rate"] == 1e-5
    assert recipes["slow"].readout.rank == 0
    assert recipes["fast"].readout.rank == 3
