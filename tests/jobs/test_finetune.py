"""Fine-tuning learns, resumes to the same bits, follows a teacher, and loses nothing at faults."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module

import pytest
import torch
import yaml
from safetensors.torch import load_file

from bipft_compress import checkpoint, jobs, loading
from bipft_compress.checkpoint.record import WEIGHTS
from bipft_compress.errors import CheckpointError, CorpusError, OutputError, TrainingError
from bipft_compress.jobs.evaluate import evaluate_task
from bipft_compress.jobs.finetune import DEFAULTS, finetune
from bipft_compress.recipe import SHIPPED, Finetuning, Recipe
from bipft_compress.structure.heads import with_classifier
from bipft_compress.tasks.chosen import ChosenTask
from bipft_compress.tasks.labelled import Columns

from .conftest import FINETUNING, kill_after_a_checkpoint

module = import_module("bipft_compress.jobs.finetune")

RECIPE = Recipe.load(FINETUNING)


@pytest.fixture
def task(sst2):
    return ChosenTask("sst2", sst2)


@pytest.fixture
def teacher(make_checkpoint, task, tmp_path):
    finetune(make_checkpoint("bert"), task, tmp_path / "teacher", recipe=RECIPE, steps=40)
    return tmp_path / "teacher"


def weights(directory):
    return load_file(directory / WEIGHTS)


def test_full_precision_learns_and_is_a_checkpoint(teacher, task):
    model, _ = loading.load_pretrained(teacher)
    assert type(model).__name__ == "BertForSequenceClassification"
    figures = evaluate_task(teacher, task)
    assert figures["sst2_accuracy"]["compressed"] > 0.8
    # Whatever reads it knows when it was changed.
    config = teacher / "config.json"
    config.write_text(config.read_text().replace('"0"', '"1"', 1))
    with pytest.raises(CheckpointError, match=r"config\.json does not match its checksum"):
        loading.load_pretrained(teacher)


def test_binary_with_a_teacher_is_a_binary_checkpoint(make_binary, teacher, task, tmp_path):
    out = tmp_path / "out"
    made = finetune(make_binary(), task, out, teacher=teacher, steps=40)
    model, _, record = checkpoint.load_trainable(out)
    assert type(model).__name__ == "BertForSequenceClassification"
    assert record.quality == {
        "sst2_accuracy": {
            "compressed": made.metrics["accuracy"],
            "full_precision": made.teacher_metrics["accuracy"],
        }
    }
    assert record.training[-1]["terms"].keys() == {"task", "logits", "hidden_states"}
    assert record.training[-1]["loss"] < record.training[0]["loss"]
    assert record.provenance["finetune"]["task"] == "sst2"
    assert {d.kind for d in record.decisions} >= {"head", "query"}
    # Every job that takes a binary checkpoint takes this one.
    figures = evaluate_task(out, task, teacher=str(teacher))
    assert figures == record.quality
    jobs.pack_checkpoint(out, tmp_path / "packed")
    assert evaluate_task(tmp_path / "packed", task)["sst2_accuracy"] == {
        "compressed": made.metrics["accuracy"]
    }
    report = jobs.report_checkpoint(out, tmp_path / "report")
    assert report.quality["sst2_accuracy"].compressed == made.metrics["accuracy"]


def test_binary_alone(make_binary, task, tmp_path):
    before = make_binary()
    made = finetune(before, task, tmp_path / "out", steps=12)
    assert made.teacher_metrics is None
    record = checkpoint.load_trainable(tmp_path / "out")[2]
    assert record.training[-1]["terms"].keys() == {"task"}
    jobs.report_checkpoint(tmp_path / "out", tmp_path / "report")
    backbone = weights(before)
    after = weights(tmp_path / "out")
    assert {f"bert.{name}" for name in backbone} <= after.keys()


@pytest.mark.parametrize("binary", [True, False])
def test_regression_with_a_teacher(make_checkpoint, make_binary, tmp_path, binary):
    rows = [f"{a} {b},{ord(a) - ord(b)}" for a in "abcdefgh" for b in "abcdefgh"]
    (tmp_path / "own.csv").write_text("\n".join(["text,y", *rows]))
    chosen = ChosenTask("custom", tmp_path / "own.csv", Columns("text", None, "y"), True)
    out = tmp_path / "out"
    finetune(make_checkpoint("bert"), chosen, tmp_path / "t", recipe=RECIPE)
    start = make_binary() if binary else tmp_path / "bert-Model"
    made = finetune(start, chosen, out, teacher=tmp_path / "t", recipe=RECIPE)
    assert made.metrics.keys() == {"pearson", "spearman"}
    assert evaluate_task(out, chosen).keys() == {"custom_pearson", "custom_spearman"}


def test_each_kind_has_its_own_learning_rate(make_binary, make_checkpoint, tmp_path):
    full, binary = (
        module.read_trainable(place) for place in (make_checkpoint("bert"), make_binary())
    )
    for start, rank, rate in [(full, None, 5e-5), (binary, None, 5e-4), (binary, 4, 3e-3)]:
        args = module._arguments(
            Finetuning(), start, tmp_path / "work", steps=None, seed=9, rank=rank, device="cpu"
        )
        assert (args.learning_rate, args.seed) == (rate, 9)


def test_own_classes_are_kept_in_the_checkpoint(make_checkpoint, tmp_path):
    rows = [f"{a} {b},{'low' if a < 'e' else 'high'}" for a in "abcdefgh" for b in "abcd"]
    path = tmp_path / "own.csv"
    path.write_text("\n".join(["text,y", *rows]))
    chosen = ChosenTask("custom", path, Columns("text", None, "y"))
    finetune(make_checkpoint("bert"), chosen, tmp_path / "out", recipe=RECIPE)
    # A file with one class alone is measured by the numbers that training gave.
    path.write_text("\n".join(["text,y", *rows[:4]]))
    assert evaluate_task(tmp_path / "out", chosen)["custom_accuracy"]
    path.write_text("text,y\na b,middling\n")
    with pytest.raises(CorpusError, match="label 'middling' is none of high, low"):
        evaluate_task(tmp_path / "out", chosen)
    path.write_text("text,y\na b,1.5\nc d,2\n")
    numbers = ChosenTask("custom", path, Columns("text", None, "y"), True)
    with pytest.raises(CheckpointError, match="has 2 labels and custom has numbers to predict"):
        evaluate_task(tmp_path / "out", numbers)


def test_every_shape_of_a_block(shape, make_binary, task, tmp_path):
    made = finetune(make_binary(shape, "ForMaskedLM"), task, tmp_path / "out", steps=2)
    checkpoint.load_trainable(tmp_path / "out")
    jobs.pack_checkpoint(tmp_path / "out", tmp_path / "packed")
    packed = evaluate_task(tmp_path / "packed", task)["sst2_accuracy"]["compressed"]
    assert packed == pytest.approx(made.metrics["accuracy"], abs=1 / 32 + 1e-9)


def test_seed_decides_everything(make_binary, task, tmp_path):
    start = make_binary()
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        finetune(start, task, tmp_path / name, steps=2, seed=seed)
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["classifier.weight"], c["classifier.weight"])


SCRIPT = """
import sys
from bipft_compress.tasks.chosen import ChosenTask
from bipft_compress.jobs.evaluate import evaluate_task
from bipft_compress.jobs.finetune import finetune
start, data, out, resume = sys.argv[1:]
finetune(start, ChosenTask("sst2", data), out, steps=24, resume=resume == "resume")
"""


@pytest.mark.slow
def test_killed_and_resumed_gives_the_same_bits(make_binary, sst2, tmp_path):
    start = make_binary()

    def run(out, resume):
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(start), str(sst2), str(tmp_path / out), resume],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    assert run("whole", "start").wait() == 0
    process = run("killed", "start")
    work = tmp_path / ".killed.training"
    kill_after_a_checkpoint(process, work)
    assert not (tmp_path / "killed").exists()
    assert run("killed", "resume").wait() == 0
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not work.exists()


def test_resumed_with_dropout_gives_the_same_bits(make_checkpoint, task, tmp_path, monkeypatch):
    start = make_checkpoint("bert")
    finetune(start, task, tmp_path / "whole", recipe=RECIPE)
    with monkeypatch.context() as patch:
        patch.setattr(module, "save_classifier", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            finetune(start, task, tmp_path / "out", recipe=RECIPE)
    work = tmp_path / ".out.training"
    # As if it had been killed after step 8.
    (work / "checkpoint-12" / "complete").unlink()
    with pytest.raises(OutputError, match="go on with --resume"):
        finetune(start, task, tmp_path / "out", recipe=RECIPE)
    # A fault of the second command does not cost the first one's work.
    missing = ChosenTask("sst2", tmp_path / "none")
    with pytest.raises(CorpusError, match="There is no directory"):
        finetune(start, missing, tmp_path / "out", recipe=RECIPE, overwrite=True)
    assert (work / "checkpoint-8" / "complete").is_file()
    finetune(start, task, tmp_path / "out", recipe=RECIPE, resume=True)
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "out")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_resume_of_another_run_is_refused(make_binary, task, tmp_path, monkeypatch):
    start = make_binary()
    with monkeypatch.context() as patch:
        patch.setattr(module, "save_classifier", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            finetune(start, task, tmp_path / "out", recipe=RECIPE)
    for other in ({"seed": 9}, {"steps": 7}, {"rank": 2}):
        with pytest.raises(TrainingError, match=r"began with another (seed|steps|lora)"):
            finetune(start, task, tmp_path / "out", recipe=RECIPE, resume=True, **other)
    finetune(start, task, tmp_path / "out", recipe=RECIPE, resume=True)


def test_nothing_to_resume(make_binary, task, tmp_path):
    with pytest.raises(TrainingError, match="nothing to resume"):
        finetune(make_binary(), task, tmp_path / "out", resume=True)


class TestTeachersAndHeads:
    """Faults in what is given, each told before anything is trained or written."""

    def test_teacher_with_another_number_of_labels(self, make_model, tokenizer, task, tmp_path):
        backbone = make_model("bert")
        three, _ = with_classifier(backbone, ("a", "b", "c"), None)
        three.save_pretrained(tmp_path / "three")
        backbone.save_pretrained(tmp_path / "start")
        for name in ("three", "start"):
            tokenizer.save_pretrained(tmp_path / name)
        with pytest.raises(CheckpointError, match="three has 3 labels and sst2 has 2 labels"):
            finetune(tmp_path / "start", task, tmp_path / "o", teacher=tmp_path / "three")
        with pytest.raises(CheckpointError, match="without a sequence classification head"):
            finetune(tmp_path / "start", task, tmp_path / "o", teacher=tmp_path / "start")
        with pytest.raises(CheckpointError, match="was fine-tuned on another task"):
            evaluate_task(tmp_path / "three", task)
        turned, _ = with_classifier(backbone, ("1", "0"), None)
        turned.save_pretrained(tmp_path / "three")
        with pytest.raises(CheckpointError, match="in another order"):
            evaluate_task(tmp_path / "three", task)
        assert not (tmp_path / "o").exists()

    def test_teacher_of_another_shape(self, make_model, tokenizer, task, tmp_path):
        for name, layers in (("start", 2), ("deep", 3)):
            model = make_model("bert", num_hidden_layers=layers)
            with_classifier(model, ("0", "1"), None)[0].save_pretrained(tmp_path / name)
            tokenizer.save_pretrained(tmp_path / name)
        with pytest.raises(CheckpointError, match=r"set finetuning\.objective\.hidden_states to 0"):
            finetune(tmp_path / "start", task, tmp_path / "o", teacher=tmp_path / "deep")
        values = FINETUNING["finetuning"] | {"objective": {"hidden_states": 0}}
        recipe = Recipe.load({"finetuning": values})
        out = tmp_path / "o"
        finetune(tmp_path / "start", task, out, teacher=tmp_path / "deep", recipe=recipe, steps=1)


def test_shipped_recipes_say_the_defaults():
    for path in SHIPPED.glob("*.yaml"):
        section = yaml.safe_load(path.read_text())["finetuning"]
        assert section.pop("training") == DEFAULTS
        if path.stem not in ("default", "demo"):  # the papers have their own terms
            del section["objective"], section["pooling"]
        assert Finetuning(**section) == Finetuning()
