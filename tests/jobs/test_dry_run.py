"""A dry run counts what a training would be, refuses what it would refuse, and writes nothing."""

from __future__ import annotations

import pytest

from bipft_compress.errors import CorpusError, RecipeError
from bipft_compress.jobs import compress_checkpoint, dry_run
from bipft_compress.recipe import Recipe

SMALL = {"initialisation": {"calibration_tokens": 400, "batch_tokens": 200}}


@pytest.fixture
def start(tmp_path, write_checkpoint, corpus):
    """A tiny BERT with room for 128 tokens."""
    write_checkpoint(tmp_path / "bert", "bert", "ForPreTraining", max_position_embeddings=132)
    compress_checkpoint(
        tmp_path / "bert", Recipe.load(SMALL), tmp_path / "start", calibration=corpus
    )
    return tmp_path / "start"


def test_the_recipe_for_eight_gpus(start, corpus, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    recipe = Recipe.load("bert-base-8gpu")
    counted = dry_run(start, corpus, tmp_path / "out", recipe=recipe, processes=8, device="cpu")
    assert (counted.steps, counted.batch, counted.batch_per_process) == (500_000, 256, 32)
    assert 0 < counted.tokens_per_step <= 256 * 128
    assert counted.tokens == 500_000 * counted.tokens_per_step
    assert counted.activation_bytes > 32 * 128 * 36 * 4 * 2
    assert sorted(tmp_path.rglob("*")) == before


def test_memory_of_the_state_by_hand(start, corpus, tmp_path, make_model):
    recipe = Recipe.load(SMALL | {"objective": {"mlm": 1.0, "nsp": 1.0, "logits": 1.0}})
    one, two = (
        dry_run(start, corpus, tmp_path / "out", recipe=recipe, steps=5, processes=n, device="cpu")
        for n in (1, 2)
    )
    gradients = two.state_bytes - one.state_bytes
    teacher = make_model("bert", "ForPreTraining", max_position_embeddings=132)
    original = sum(part.nbytes for part in teacher.parameters())
    assert 4 * gradients + original <= one.state_bytes < 4 * gradients + 1.2 * original
    assert one.activation_bytes == pytest.approx(2 * two.activation_bytes, rel=0.01)


def test_it_refuses_what_training_would(start, corpus, tmp_path):
    out = tmp_path / "out"
    for values, message in (
        ({"text": {"sequence_length": 400}}, "400 is more than"),
        ({"training": {"per_device_train_batch_size": 6}}, "6 is the batch of all"),
        ({"training": {"learning_rat": 1}}, "learning_rat"),
    ):
        recipe = Recipe.load(SMALL | {"objective": {"mlm": 1.0}} | values)
        with pytest.raises(RecipeError, match=message):
            dry_run(start, corpus, out, recipe=recipe, processes=4, device="cpu")
    (tmp_path / "short.txt").write_text("ab")
    with pytest.raises(CorpusError, match="no sequence of at least"):
        dry_run(start, tmp_path / "short.txt", out, recipe=Recipe.load("bipft-a"), device="cpu")


def test_the_command_line_prints_it(start, corpus, tmp_path, call):
    arguments = [start, "--corpus", corpus, "--out", tmp_path / "out", "--recipe", "bipft-a"]
    code, out, _ = call("pretrain", *arguments, "--dry-run", "--processes", "8")
    assert code == 0
    assert "1,000" in out
    assert "batch of a process" in out
    assert not (tmp_path / "out").exists()
    assert call("pretrain", *arguments, "--processes", "8")[0] == 2
