"""Before fine-tuning, each layer alone follows the teacher's."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from bipft_compress.convert.initialise import normalised_error
from bipft_compress.convert.layerwise import LayerwiseRunner
from bipft_compress.recipe import Finetuning, Recipe
from bipft_compress.record import WEIGHTS
from bipft_compress.tasks.chosen import ChosenTask
from bipft_compress.training import descent
from bipft_compress.training import finetune as module
from bipft_compress.training.descent import follow_teacher
from bipft_compress.training.finetune import finetune

from .conftest import FINETUNING

RECIPE = Recipe.load(FINETUNING)


@pytest.fixture
def task(sst2):
    return ChosenTask("sst2", sst2)


@pytest.fixture
def teacher(make_checkpoint, task, tmp_path):
    finetune(make_checkpoint("bert"), task, tmp_path / "teacher", recipe=RECIPE, steps=4)
    return tmp_path / "teacher"


def rows(count: int, **columns: list[list[int]]) -> Dataset:
    lengths = [len(ids) for ids in columns["input_ids"]]
    return Dataset.from_dict(columns | {"length": lengths, "labels": [0] * count})


def _error(student, teacher, encoder, batches) -> float:
    walk = [LayerwiseRunner(model, encoder, batches) for model in (student, teacher)]
    for _ in encoder.layers:
        for runner in walk:
            runner.advance()
    return normalised_error(*walk)


def test_the_student_comes_nearer(make_pair, make_model, batches):
    """Towards a teacher that is not the one it was compressed from."""
    pair = make_pair("bert")
    other = make_model("bert")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1 * parameter.std(correction=0) * torch.randn_like(parameter))
    sequences = [row.tolist() for batch in batches for row in batch]
    examples = rows(len(sequences), input_ids=sequences)
    before = _error(pair.student, other, pair.encoder, batches)
    options = Finetuning(layer_epochs=60, layer_learning_rate=3e-3)
    seen = []
    follow_teacher(
        pair.student, other, pair.encoder, examples, options, most=99, seed=0,
        progress=lambda *layer: seen.append(layer),
    )  # fmt: skip
    assert _error(pair.student, other, pair.encoder, batches) < 0.8 * before
    assert seen == [(1, 2), (2, 2)]


class TestBatches:
    def test_token_types_stay_beside_their_tokens(self):
        ids, types = [[1, 5, 2, 7, 2], [1, 2, 2]], [[0, 0, 0, 1, 1], [0, 0, 1]]
        examples = rows(2, input_ids=ids, token_type_ids=types)
        (short, long) = descent._batches(examples, most=2, tokens=100, seed=0)
        assert short["input_ids"].tolist() == ids[1:]
        assert short["token_type_ids"].tolist() == types[1:]
        assert long["token_type_ids"].tolist() == types[:1]

    def test_no_more_than_asked_for(self):
        examples = rows(50, input_ids=[[1, 5, 6, 2]] * 50)
        for most, tokens, expected in ((7, 999, 7), (99, 999, 50), (99, 21, 6), (99, 1, 1)):
            (batch,) = descent._batches(examples, most, tokens, seed=0)
            assert batch["input_ids"].shape == (expected, 4)

    def test_drawn_by_the_seed(self):
        examples = rows(50, input_ids=[[index] for index in range(50)])
        first, again, other = (
            descent._batches(examples, 5, 999, seed)[0]["input_ids"].tolist() for seed in (0, 0, 1)
        )
        assert first == again != other


def _counted(monkeypatch) -> list[int]:
    """Collects how many examples each descent may use."""
    calls: list[int] = []

    def follow(*_, most: int, **__):
        calls.append(most)

    monkeypatch.setattr(module, "follow_teacher", follow)
    return calls


def test_sees_what_training_sees(make_binary, teacher, task, tmp_path, monkeypatch):
    calls, start = _counted(monkeypatch), make_binary()
    for number, steps in enumerate((3, 20)):
        out = tmp_path / f"out-{number}"
        finetune(start, task, out, teacher=teacher, recipe=RECIPE, steps=steps)
    assert calls == [3 * 8, 64]


def test_a_binary_model_with_a_teacher_alone(
    make_binary, make_checkpoint, teacher, task, tmp_path, monkeypatch
):
    """Not without a teacher, not in full precision, and not under an adapter."""
    calls = _counted(monkeypatch)
    binary, full = make_binary(), make_checkpoint("bert")
    finetune(binary, task, tmp_path / "a", recipe=RECIPE, steps=1)
    finetune(full, task, tmp_path / "b", recipe=RECIPE, steps=1, teacher=teacher)
    finetune(binary, task, tmp_path / "c", recipe=RECIPE, steps=1, teacher=teacher, rank=2)
    assert calls == []


def test_resumed_gives_the_same_bits(make_binary, teacher, task, tmp_path, monkeypatch):
    start = make_binary()

    def run(name: str, resume: bool = False):
        finetune(start, task, tmp_path / name, teacher=teacher, recipe=RECIPE, resume=resume)

    run("whole")
    with monkeypatch.context() as patch:
        patch.setattr(module, "save_classifier", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run("out")
    # As if it had been killed after step 8; what is resumed has followed its teacher already.
    (tmp_path / ".out.training" / "checkpoint-12" / "complete").unlink()
    calls = _counted(monkeypatch)
    run("out", resume=True)
    assert calls == []
    whole, resumed = (load_file(tmp_path / name / WEIGHTS) for name in ("whole", "out"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
