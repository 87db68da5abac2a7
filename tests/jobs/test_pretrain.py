"""Pretraining lowers the loss, resumes bit for bit, and stops at a loss that is no number."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from bipft_compress import checkpoint, loading, losses
from bipft_compress.checkpoint.record import WEIGHTS
from bipft_compress.errors import OutputError, RecipeError, TrainingError
from bipft_compress.jobs import compress_checkpoint
from bipft_compress.jobs.pretrain import pretrain
from bipft_compress.recipe import Recipe
from bipft_compress.training.arguments import training_arguments
from bipft_compress.training.distillation import Distillation

from .conftest import kill_after_a_checkpoint

RECIPE = {
    "initialisation": {"calibration_tokens": 400, "batch_tokens": 200, "sequence_length": 24},
    "text": {"unit": "packed", "sequence_length": 24, "shortest": 4},
    "objective": {"mlm": 1.0, "hidden_states": 1.0},
    "embeddings": {"subvector": 4},
    "training": {
        "max_steps": 24,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "logging_steps": 4,
        "save_strategy": "steps",
        "save_steps": 4,
        "use_cpu": True,
        "seed": 3,
    },
}


@pytest.fixture
def start(tmp_path, make_checkpoint, corpus):
    """A compressed tiny BERT with an MLM head."""
    original = make_checkpoint("bert", "ForMaskedLM")
    compress_checkpoint(original, Recipe.load(RECIPE), tmp_path / "start", calibration=corpus)
    return tmp_path / "start"


def weights(directory):
    return load_file(directory / WEIGHTS)


def test_training_lowers_the_loss_and_keeps_the_start(start, corpus, tmp_path):
    before = weights(start)
    record = pretrain(start, corpus, tmp_path / "out", steps=42)
    losses = [point["loss"] for point in record.training]
    # Every fourth step and the last, so that all tokens are counted.
    assert [point["step"] for point in record.training] == [*range(4, 41, 4), 42]
    assert losses[-1] < 0.9 * losses[0]
    assert record.training[-1]["tokens"] > record.training[0]["tokens"] > 0
    assert record.training[0]["terms"].keys() == {"mlm", "hidden_states"}
    after = weights(tmp_path / "out")
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert all(torch.equal(value, weights(start)[name]) for name, value in before.items())


def test_frozen_words_stay_as_they_are(start, corpus, tmp_path):
    recipe = Recipe.load(RECIPE | {"words": {"frozen": True}})
    pretrain(start, corpus, tmp_path / "frozen", recipe=recipe, steps=4)
    pretrain(start, corpus, tmp_path / "free", steps=4)
    before, frozen, free = map(weights, (start, tmp_path / "frozen", tmp_path / "free"))
    words = {name for name in before if "word_embeddings" in name}
    assert words
    assert all(torch.equal(before[name], frozen[name]) for name in words)
    assert not all(torch.equal(before[name], free[name]) for name in words)
    assert not all(torch.equal(before[name], frozen[name]) for name in before.keys() - words)


SCRIPT = """
import sys
from bipft_compress.jobs.pretrain import pretrain
pretrain(sys.argv[1], sys.argv[2], sys.argv[3], resume=sys.argv[4] == "resume")
"""


def run(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        **options,
    )


@pytest.mark.slow
def test_killed_and_resumed_gives_the_same_bits(start, corpus, tmp_path):
    assert run(start, corpus, tmp_path / "whole", "start").wait() == 0
    process = run(start, corpus, tmp_path / "killed", "start")
    work = tmp_path / ".killed.training"
    kill_after_a_checkpoint(process, work)
    assert not (tmp_path / "killed").exists()
    assert run(start, corpus, tmp_path / "killed", "resume").wait() == 0
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not work.exists()


def test_incomplete_checkpoint_is_passed_over(start, corpus, tmp_path, monkeypatch):
    # The disk fills while the third checkpoint is written: the second is resumed from.
    from bipft_compress.training import trainer

    real, calls = trainer.write_atomically, []

    def fail_third(path, text):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        real(path, text)

    monkeypatch.setattr(trainer, "write_atomically", fail_third)
    with pytest.raises(OutputError, match="No space left"):
        pretrain(start, corpus, tmp_path / "out")
    monkeypatch.undo()
    work = tmp_path / ".out.training"
    assert trainer.last_checkpoint(work).name == "checkpoint-8"
    pretrain(start, corpus, tmp_path / "out", resume=True)
    assert (tmp_path / "out" / WEIGHTS).is_file()


def test_loss_that_is_no_number_names_the_last_good_checkpoint(
    start, corpus, tmp_path, monkeypatch
):
    from bipft_compress import losses

    real, calls = losses.hidden_state_mse, []

    def turns_nan(*arguments):
        calls.append(1)
        value = real(*arguments)
        return value * float("nan") if len(calls) > 2 * 6 else value

    monkeypatch.setattr(losses, "hidden_state_mse", turns_nan)
    with pytest.raises(TrainingError, match=r"hidden_states.*after step 6.*checkpoint-4"):
        pretrain(start, corpus, tmp_path / "out")


def test_unfinished_run_is_not_lost_by_accident(start, corpus, tmp_path, monkeypatch):

    monkeypatch.setattr(checkpoint, "save", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pretrain(start, corpus, tmp_path / "out", steps=4)
    monkeypatch.undo()
    with pytest.raises(OutputError, match="go on with --resume"):
        pretrain(start, corpus, tmp_path / "out", steps=4)
    pretrain(start, corpus, tmp_path / "out", steps=4, overwrite=True)


def test_nothing_to_resume(start, corpus, tmp_path):
    with pytest.raises(TrainingError, match="nothing to resume"):
        pretrain(start, corpus, tmp_path / "new", resume=True)


def test_sequence_longer_than_the_model_allows(start, corpus, tmp_path):
    recipe = Recipe.load({**RECIPE, "text": {"sequence_length": 400}})
    with pytest.raises(RecipeError, match=r"400 is more than the 40 tokens"):
        pretrain(start, corpus, tmp_path / "out", recipe=recipe)


def test_terms_without_a_head_are_refused(tmp_path, make_checkpoint, corpus):
    recipe = Recipe.load({**RECIPE, "objective": {"mlm": 1.0}})
    compress_checkpoint(make_checkpoint("bert"), recipe, tmp_path / "a", calibration=corpus)
    with pytest.raises(RecipeError, match=r"objective\.mlm needs a masked-language-model head"):
        pretrain(tmp_path / "a", corpus, tmp_path / "b")


def test_terms_whose_head_is_not_there_are_left_out(tmp_path, make_checkpoint, corpus, caplog):
    objective = {"nsp": 1.0, "logits": 1.0, "hidden_states": 1.0}
    recipe = Recipe.load({**RECIPE, "objective": objective})
    compress_checkpoint(make_checkpoint("bert"), recipe, tmp_path / "a", calibration=corpus)
    with caplog.at_level("INFO", "bipft_compress"):
        record = pretrain(tmp_path / "a", corpus, tmp_path / "b", steps=4)
    assert record.training[-1]["terms"].keys() == {"hidden_states"}
    assert "objective.nsp is left out: BertModel has no next-sentence head" in caplog.text
    assert "objective.logits is left out: BertModel has no head" in caplog.text
    alone = Recipe.load({**RECIPE, "objective": {"nsp": 1.0}})
    with pytest.raises(RecipeError, match="Nothing to train for"):
        pretrain(tmp_path / "a", corpus, tmp_path / "c", recipe=alone)


def test_fresh_mlm_head(tmp_path, make_checkpoint, corpus, caplog):
    objective = {"mlm": 1.0, "logits": 1.0, "fresh_mlm_head": True}
    recipe = Recipe.load({**RECIPE, "objective": objective})
    compress_checkpoint(make_checkpoint("bert"), recipe, tmp_path / "a", calibration=corpus)
    with caplog.at_level("INFO", "bipft_compress"):
        record = pretrain(tmp_path / "a", corpus, tmp_path / "b", steps=12)
    assert record.training[-1]["loss"] < record.training[0]["loss"]
    # The original's head is as fresh, and teaches nothing.
    assert record.training[-1]["terms"].keys() == {"mlm"}
    assert "the original's head is a fresh one" in caplog.text


def test_a_head_that_is_there_is_not_replaced(make_checkpoint):
    model, _ = loading.load_pretrained(make_checkpoint("bert", "ForPreTraining"), mlm_head=True)
    assert type(model).__name__ == "BertForPreTraining"


def test_every_term_at_once(tmp_path, make_checkpoint, corpus):
    objective = dict.fromkeys(
        ["mlm", "nsp", "logits", "hidden_states", "attention_scores", "directions"], 1.0
    ) | {"sentence_cosine": 1.0, "sentence_similarity": 1.0}
    recipe = Recipe.load({**RECIPE, "objective": objective})
    original = make_checkpoint("bert", "ForPreTraining")
    compress_checkpoint(original, recipe, tmp_path / "a", calibration=corpus)
    record = pretrain(tmp_path / "a", corpus, tmp_path / "b", steps=8)
    assert record.training[-1]["terms"].keys() == set(objective)


def test_unknown_training_argument_is_named(tmp_path):
    with pytest.raises(RecipeError, match="learning_rat"):
        training_arguments({"learning_rat": 1e-3}, tmp_path, None)


def test_a_teacher_that_is_not_asked_does_not_run(make_pair):
    recipe = {"objective": {"mlm": 1.0}}
    pair = make_pair("bert", "ForMaskedLM", recipe)
    pair.teacher.register_forward_pre_hook(lambda *_: pytest.fail("it ran"))
    objective = Recipe.load(recipe).objective
    distillation = Distillation(pair.student, pair.teacher, pair.encoder, objective)
    ids = torch.tensor([[5, 6, 7], [8, 9, 5]])
    labels = torch.tensor([[-100, 7, -100], [6, -100, -100]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    terms = distillation(pair.student, batch)
    assert terms.keys() == {"mlm"}
    with torch.no_grad():
        logits = pair.student(ids, attention_mask=torch.ones_like(ids)).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(terms["mlm"], expected)


@pytest.mark.parametrize(
    ("family", "head"),
    [
        ("bert", "ForMaskedLM"),
        ("bert", "ForPreTraining"),
        ("roberta", "ForMaskedLM"),
        ("distilbert", "ForMaskedLM"),
        ("electra", "ForMaskedLM"),
        ("albert", "ForMaskedLM"),
        ("albert", "ForPreTraining"),
        ("deberta-v2", "ForMaskedLM"),
        ("eurobert", "ForMaskedLM"),
        ("mobilebert", "ForMaskedLM"),
        ("modernbert", "ForMaskedLM"),
        ("mpnet", "ForMaskedLM"),
        ("roformer", "ForMaskedLM"),
    ],
)
def test_heads_see_the_masked_positions_alone(make_pair, family, head):
    """The terms are those of logits at every position; the vocabulary's product is not."""
    recipe = {"objective": {"mlm": 1.0, "logits": 1.0, "hidden_states": 1.0}}
    pair = make_pair(family, head, recipe)
    objective = Recipe.load(recipe).objective
    distillation = Distillation(pair.student, pair.teacher, pair.encoder, objective)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 100, (3, 9), generator=generator)
    attention = torch.ones(3, 9, dtype=torch.long)
    attention[1, 6:] = 0
    labels = torch.full((3, 9), -100)
    labels[0, 2], labels[1, 5], labels[2, 8] = 7, 8, 9
    batch = {"input_ids": ids, "attention_mask": attention, "labels": labels}
    seen = []
    # MobileBERT's reads the weights of its output layer without a call of it.
    mobile = family == "mobilebert"
    output = pair.student.cls.predictions if mobile else pair.student.get_output_embeddings()
    handle = output.register_forward_hook(
        lambda _, __, output: seen.append(output.shape[:-1].numel())
    )
    terms = distillation(pair.student, batch)
    handle.remove()
    assert seen == [3]
    with torch.no_grad():
        inputs = {"input_ids": ids, "attention_mask": attention}
        both = [model(**inputs) for model in (pair.student, pair.teacher)]
    name = "prediction_logits" if head == "ForPreTraining" else "logits"
    student, teacher = (output[name] for output in both)
    expected = torch.nn.functional.cross_entropy(student.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(terms["mlm"], expected)
    soft = losses.soft_cross_entropy(student, teacher, labels >= 0)
    if head == "ForPreTraining":
        second = "sop_logits" if family == "albert" else "seq_relationship_logits"
        soft = soft + losses.soft_cross_entropy(*(x[second] for x in both))
    torch.testing.assert_close(terms["logits"], soft)
