"""What draws a training is checked before it begins, and what it wrote is there at the end."""

from __future__ import annotations

import importlib.util
import json

import pytest
from transformers.integrations import integration_utils

from bipft_compress.checkpoint.record import Record
from bipft_compress.errors import RecipeError, UserError
from bipft_compress.jobs import compress_checkpoint, pretrain
from bipft_compress.jobs import run as run_all
from bipft_compress.recipe import Recipe
from bipft_compress.training.trackers import check_trackers

QUICK = {
    "initialisation": {"calibration_tokens": 400, "batch_tokens": 200, "sequence_length": 24},
    "embeddings": {"subvector": 4},
    "text": {"sequence_length": 24, "shortest": 4},
    "objective": {"hidden_states": 1.0},
    "training": {
        "report_to": "tensorboard",
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
    },
}


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\n\n".join(f"ab cd ef gh a{c} b{c} c{c} ab ac ad" for c in "abcdefgh" * 5))
    return path


def test_one_that_is_not_installed_is_refused(monkeypatch, write_checkpoint, corpus, tmp_path):
    monkeypatch.setattr(integration_utils, "is_tensorboard_available", lambda: False)
    recipe = Recipe.load(QUICK)
    with pytest.raises(UserError, match="tensorboard, which is not installed: run `pip install"):
        check_trackers(recipe.training)
    write_checkpoint(tmp_path / "original")
    with pytest.raises(UserError, match="not installed"):
        run_all(tmp_path / "original", recipe, corpus, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_that_transformers_does_not_know_is_refused():
    with pytest.raises(RecipeError, match="'tensorbord', which transformers does not know"):
        check_trackers({"report_to": ["tensorbord"]})
    check_trackers({"report_to": "none"})
    check_trackers({})


def _losses(directory):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory))
    events.Reload()
    return [scalar.value for scalar in events.Scalars("train/loss")]


@pytest.mark.parametrize("schedule", [False, True])
def test_tensorboard_has_the_losses_at_the_end(write_checkpoint, corpus, tmp_path, schedule):
    pytest.importorskip("tensorboard")
    values = json.loads(json.dumps(QUICK))
    if schedule:
        values |= {"activations": {"bits": 2, "key_value_bits": 2}}
        values["schedule"] = [{"share": 0.5, "bits": 1, "key_value_bits": 1}]
    write_checkpoint(tmp_path / "original")
    binary = tmp_path / "binary"
    compress_checkpoint(tmp_path / "original", Recipe.load(values), binary, calibration=corpus)
    pretrain(binary, corpus, tmp_path / "better", steps=4)
    losses = [point["loss"] for point in Record.read(tmp_path / "better").training]
    runs = sorted((tmp_path / "better-runs").iterdir())
    drawn = [loss for run in runs for loss in _losses(run)]
    assert drawn[-len(losses) :] == pytest.approx(losses, rel=1e-5)
    # They name the machine, so they are no part of what may be published.
    assert not list((tmp_path / "better").rglob("*tfevents*"))


def test_without_tensorboard_nothing_is_written_beside(write_checkpoint, corpus, tmp_path):
    assert importlib.util.find_spec("torch.utils.tensorboard")
    recipe = Recipe.load(QUICK | {"training": QUICK["training"] | {"report_to": "none"}})
    write_checkpoint(tmp_path / "original")
    compress_checkpoint(tmp_path / "original", recipe, tmp_path / "binary", calibration=corpus)
    pretrain(tmp_path / "binary", corpus, tmp_path / "better", steps=1)
    assert not (tmp_path / "better-runs").exists()
