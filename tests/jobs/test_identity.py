"""A run goes on only with what it began with; another is refused, and the difference is named."""

from __future__ import annotations

import json
import shutil
from importlib import import_module

import pytest
import torch
from safetensors.torch import load_file, save_file

from bipft_compress import jobs
from bipft_compress.checkpoint.record import RECORD, WEIGHTS
from bipft_compress.errors import OutputError, TrainingError, UserError
from bipft_compress.files import hidden_path
from bipft_compress.jobs.finetune import finetune
from bipft_compress.jobs.pretrain import pretrain
from bipft_compress.recipe import Recipe
from bipft_compress.tasks.chosen import ChosenTask

from .conftest import FINETUNING

RECIPE = {
    "initialisation": {"calibration_tokens": 400, "batch_tokens": 200, "sequence_length": 24},
    "text": {"unit": "packed", "sequence_length": 24, "shortest": 4},
    "objective": {"hidden_states": 1.0},
    "embeddings": {"subvector": 4},
    "training": {
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "save_strategy": "steps",
        "save_steps": 2,
        "use_cpu": True,
    },
}


def _other_text(path):
    other = path.with_name("other.txt")
    other.write_text(path.read_text() + " ab cd")
    return other


def _other_weights(directory):
    """A copy with one weight changed."""
    other = shutil.copytree(directory, directory.with_name("other"))
    state = load_file(other / WEIGHTS)
    next(iter(state.values())).view(-1)[0] += 1
    save_file(state, other / WEIGHTS, metadata={"format": "pt"})
    return other


class TestRun:
    @pytest.fixture
    def pairs(self, tmp_path):
        path = tmp_path / "pairs.tsv"
        path.write_text("sentence1\tsentence2\tscore\nab\tab\t5\nab\tcd\t1\n")
        return path

    @pytest.fixture
    def source(self, make_checkpoint):
        return make_checkpoint("bert")

    def test_another_run_is_refused_in_its_directory(self, source, corpus, pairs, tmp_path):
        recipe, out = Recipe.load(RECIPE), tmp_path / "run"
        jobs.run(source, recipe, corpus, out, data=pairs, steps=2)
        kept = {path: path.read_bytes() for path in out.rglob("*.safetensors")}
        assert len(kept) == 3
        more = Recipe.load({**RECIPE, "estimators": {"query": 2}})
        for says, arguments in {
            "another checkpoint.model.safetensors:": {"source": _other_weights(source)},
            "another corpus:": {"corpus": _other_text(corpus)},
            r"another recipe.estimators.query \(\d there, 2 here\):": {"recipe": more},
            r"another steps \(2 there, 3 here\):": {"steps": 3},
            r"another seed \(0 there, 1 here\):": {"seed": 1},
            "another data:": {"data": None},
        }.items():
            given = {"source": source, "recipe": recipe, "corpus": corpus, "data": pairs}
            with pytest.raises(UserError, match=says):
                jobs.run(**{**given, "steps": 2, **arguments}, out=out)
        # The same content under other names is the same run.
        moved = corpus.rename(tmp_path / "moved.txt")
        jobs.run(source, recipe, moved, out, data=pairs, steps=2)
        assert all(path.read_bytes() == content for path, content in kept.items())

    def test_a_directory_of_something_else_is_left_alone(self, source, corpus, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "mine").write_text("precious")
        with pytest.raises(OutputError, match="already exists"):
            jobs.run(source, Recipe.load(RECIPE), corpus, tmp_path / "run")
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine"]

    def test_killed_while_it_compresses_it_can_be_run_again(self, source, corpus, tmp_path):
        """What SIGKILL leaves: hidden directories, a lock without an owner, and run.json."""
        recipe, out = Recipe.load(RECIPE), tmp_path / "run"
        with pytest.MonkeyPatch.context() as patch:
            module = import_module("bipft_compress.jobs.run")
            patch.setattr(module, "compress_checkpoint", lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                jobs.run(source, recipe, corpus, out, steps=2)
        hidden_path(out, "lock").touch()
        half = hidden_path(out / "compressed", "new")
        half.mkdir()
        (half / WEIGHTS).write_text("half")
        jobs.run(source, recipe, corpus, out, steps=2)
        assert sorted(path.name for path in out.iterdir()) == [
            "compressed", "packed", "pretrained", "report", "run.json",
        ]  # fmt: skip
        assert not hidden_path(out, "lock").exists()


@pytest.fixture
def start(make_checkpoint, corpus, tmp_path):
    original = make_checkpoint("bert")
    jobs.compress_checkpoint(original, Recipe.load(RECIPE), tmp_path / "start", calibration=corpus)
    return tmp_path / "start"


def _cut_short(job, *arguments, **options):
    """Run a training that ends before its result is written."""
    name = {pretrain: "pretrain", finetune: "finetune"}[job]
    module = import_module(f"bipft_compress.jobs.{name}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "round_to_stored", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            job(*arguments, **options)


class TestPretraining:
    @pytest.fixture
    def cut_short(self, start, corpus, tmp_path):
        _cut_short(pretrain, start, corpus, tmp_path / "out")
        return tmp_path / ".out.training"

    def test_resuming_another_run_is_refused(
        self, start, corpus, tmp_path, cut_short, write_checkpoint
    ):
        write_checkpoint(tmp_path / "teacher", seed=4)
        jobs.compress_checkpoint(
            tmp_path / "bert-Model", Recipe.load(RECIPE), tmp_path / "b", calibration=corpus, seed=1
        )
        again = Recipe.load({**RECIPE, "objective": {"hidden_states": 2.0}})
        for says, arguments in {
            "began with another checkpoint.model.safetensors": {"directory": tmp_path / "b"},
            "began with another corpus:": {"corpus": _other_text(corpus)},
            "began with another teacher.model.safetensors": {"teacher": tmp_path / "teacher"},
            r"began with another objective.hidden_states \(1.0 there": {"recipe": again},
        }.items():
            given = {"directory": start, "corpus": corpus, "out": tmp_path / "out"}
            with pytest.raises(TrainingError, match=says):
                pretrain(**{**given, **arguments}, resume=True)
        assert (cut_short / "checkpoint-6" / "complete").is_file()
        # What was measured in between changes nothing.
        record = json.loads((start / RECORD).read_text())
        pretrain(start, corpus, tmp_path / "out", resume=True)
        assert json.loads((start / RECORD).read_text()) == record

    @pytest.mark.parametrize(
        ("name", "damage", "says"),
        [
            ("optimizer.pt", "remove", "is missing"),
            ("scheduler.pt", "remove", "is missing"),
            ("rng_state.pth", "remove", "is missing"),
            ("trainer_state.json", "remove", "is missing"),
            ("optimizer.pt", "truncate", "was changed or truncated"),
            ("rng_state.pth", "truncate", "was changed or truncated"),
            ("model.safetensors", "truncate", "was changed or truncated"),
            ("trainer_state.json", "truncate", "was changed or truncated"),
        ],
    )
    def test_a_damaged_state_is_not_begun_anew(
        self, start, corpus, tmp_path, cut_short, name, damage, says
    ):
        path = cut_short / "checkpoint-6" / name
        if damage == "remove":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-10])
        with pytest.raises(TrainingError, match=f"checkpoint-6/{name} {says}"):
            pretrain(start, corpus, tmp_path / "out", resume=True)
        # As the sentence says, the one before is still good.
        shutil.rmtree(cut_short / "checkpoint-6")
        pretrain(start, corpus, tmp_path / "out", resume=True)
        assert (tmp_path / "out" / WEIGHTS).is_file()

    def test_cut_short_before_the_first_checkpoint(self, start, corpus, tmp_path, cut_short):
        for path in cut_short.glob("checkpoint-*/complete"):
            path.unlink()
        pretrain(start, corpus, tmp_path / "out", resume=True)
        pretrain(start, corpus, tmp_path / "whole")
        resumed, whole = (load_file(tmp_path / name / WEIGHTS) for name in ("out", "whole"))
        assert all(torch.equal(resumed[name], whole[name]) for name in whole)

    def test_replacing_a_result_can_be_resumed(self, start, corpus, tmp_path):
        out = tmp_path / "out"
        pretrain(start, corpus, out, steps=2)
        _cut_short(pretrain, start, corpus, out, overwrite=True)
        with pytest.raises(OutputError, match="already complete"):
            pretrain(start, corpus, out, resume=True)
        pretrain(start, corpus, out, resume=True, overwrite=True)
        assert not (tmp_path / ".out.training").exists()

    def test_other_text_for_a_later_stage_is_refused(self, make_checkpoint, corpus, tmp_path):
        schedule = {"activations": {"bits": 4}, "schedule": [{"bits": 1}]}
        staged = Recipe.load({**RECIPE, **schedule})
        start = tmp_path / "start"
        jobs.compress_checkpoint(make_checkpoint("bert"), staged, start, calibration=corpus)
        with pytest.MonkeyPatch.context() as patch:
            module = import_module("bipft_compress.jobs.pretrain")
            patch.setattr(module, "_write_start", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                pretrain(start, corpus, tmp_path / "out")
        # The first stage is complete: what goes on would be mixed.
        assert (tmp_path / ".out.training" / "stage-0" / RECORD).is_file()
        with pytest.raises(TrainingError, match="began with another corpus"):
            pretrain(start, _other_text(corpus), tmp_path / "out", resume=True)
        pretrain(start, corpus, tmp_path / "out", resume=True)

    def test_the_student_is_not_its_own_teacher(self, start, corpus, tmp_path):
        copy = shutil.copytree(start, tmp_path / "copy")
        for teacher in (start, copy):
            with pytest.raises(TrainingError, match="is the checkpoint itself"):
                pretrain(start, corpus, tmp_path / "out", teacher=teacher)

    def test_inputs_are_not_destroyed(self, start, corpus, tmp_path):
        for out in (start, start / "below", tmp_path, tmp_path / "bert-Model"):
            with pytest.raises(OutputError, match="the input"):
                pretrain(start, corpus, out, teacher=tmp_path / "bert-Model", overwrite=True)
        # The teacher that the record names.
        with pytest.raises(OutputError, match="is the input itself"):
            pretrain(start, corpus, tmp_path / "bert-Model", overwrite=True)
        for out in (start, start / "below", tmp_path):
            with pytest.raises(OutputError, match="the input"):
                jobs.pack_checkpoint(start, out, overwrite=True)
        base = tmp_path / "bert-Model"
        with pytest.raises(OutputError, match="holds the input"):
            jobs.compress_checkpoint(base, Recipe(), tmp_path, overwrite=True)


class TestFinetuning:
    def test_resuming_another_run_is_refused(self, make_binary, make_checkpoint, sst2, tmp_path):
        start, out, recipe = make_binary(), tmp_path / "out", Recipe.load(FINETUNING)
        task = ChosenTask("sst2", sst2)
        finetune(make_checkpoint("bert"), task, tmp_path / "teacher", recipe=recipe)
        _cut_short(finetune, start, task, out, steps=4)
        with pytest.raises(TrainingError, match=r"began with another teacher:"):
            finetune(start, task, out, steps=4, resume=True, teacher=tmp_path / "teacher")
        rows = (sst2 / "SST-2" / "train.tsv").read_text().splitlines()
        (sst2 / "SST-2" / "train.tsv").write_text("\n".join([*rows[:-1], "a b c\t1"]))
        with pytest.raises(TrainingError, match="began with another data:"):
            finetune(start, task, out, steps=4, resume=True)
        (sst2 / "SST-2" / "train.tsv").write_text("\n".join(rows))
        finetune(start, task, out, steps=4, resume=True)

    def test_inputs_are_not_destroyed(self, make_binary, make_checkpoint, sst2, tmp_path):
        start, teacher = make_binary(), make_checkpoint("bert", "ForMaskedLM")
        for out in (start, teacher, sst2, sst2 / "SST-2"):
            with pytest.raises(OutputError, match="the input"):
                finetune(start, ChosenTask("sst2", sst2), out, teacher=teacher, overwrite=True)
