"""Similarity by cosine: an encoder without a head in, a better one out."""

from __future__ import annotations

import pytest
import torch

from bipft_compress import checkpoint, jobs, loading
from bipft_compress.errors import CheckpointError
from bipft_compress.jobs.evaluate import evaluate_task
from bipft_compress.jobs.finetune import finetune
from bipft_compress.nn.pooling import mean_pool
from bipft_compress.recipe import Recipe
from bipft_compress.tasks.chosen import ChosenTask
from bipft_compress.tasks.classify import tokenize
from bipft_compress.tasks.labelled import Columns, Examples, Task
from bipft_compress.training.collator import FinetuningCollator

from .conftest import FINETUNING

RECIPE = Recipe.load(FINETUNING)
HEAD = Recipe.load(FINETUNING | {"finetuning": FINETUNING["finetuning"] | {"similarity": "head"}})


@pytest.fixture
def pairs(tmp_path):
    """How alike two texts are is how many words they share, out of two."""
    letters = "abcdef"
    rows = [
        (f"{a} {b}", f"{c} {b} {b}", (a == c) + 1) for a in letters for b in letters for c in "abc"
    ]
    rows += [(f"{a} {a}", f"{b} {b}", 0) for a in letters for b in letters if a != b]
    table = "\n".join(["one,two,alike", *(",".join(map(str, row)) for row in rows)])
    for split in ("train", "dev"):
        (tmp_path / "pairs").mkdir(exist_ok=True)
        (tmp_path / "pairs" / f"{split}.csv").write_text(table)
    return ChosenTask("custom", tmp_path / "pairs", Columns("one", "two", "alike"), regression=True)


def test_full_precision_teaches_binary(make_checkpoint, make_binary, pairs, tmp_path):
    before = evaluate_task(make_checkpoint("bert"), pairs)["custom_spearman"]["compressed"]
    full = finetune(make_checkpoint("bert"), pairs, tmp_path / "full", recipe=RECIPE, steps=40)
    model, _ = loading.load_pretrained(tmp_path / "full")
    assert type(model).__name__ == "BertModel"
    assert full.metrics["spearman"] > before + 0.1
    out = tmp_path / "out"
    made = finetune(make_binary(), pairs, out, teacher=tmp_path / "full", recipe=RECIPE, steps=40)
    model, _, record = checkpoint.load_trainable(out)
    assert type(model).__name__ == "BertModel"
    assert record.training[-1]["terms"].keys() == {"task", "hidden_states"}
    assert record.training[-1]["terms"]["task"] < record.training[0]["terms"]["task"]
    assert made.teacher_metrics == full.metrics
    assert {d.kind for d in record.decisions} >= {"query", "pooler"}
    jobs.pack_checkpoint(out, tmp_path / "packed")
    for place in (out, tmp_path / "packed"):
        found = evaluate_task(place, pairs)["custom_spearman"]["compressed"]
        assert found == pytest.approx(evaluate_task(out, pairs)["custom_spearman"]["compressed"])


@pytest.mark.parametrize("binary", [False, True])
def test_from_any_head(make_checkpoint, make_binary, pairs, tmp_path, binary):
    start = (make_binary if binary else make_checkpoint)("bert", "ForMaskedLM")
    assert evaluate_task(start, pairs).keys() == {"custom_pearson", "custom_spearman"}
    finetune(start, pairs, tmp_path / "out", recipe=RECIPE, steps=2)
    found = evaluate_task(tmp_path / "out", pairs)
    assert found.keys() == {"custom_pearson", "custom_spearman"}


def test_a_head_reads_both_texts_at_once(make_checkpoint, pairs, tmp_path):
    finetune(make_checkpoint("bert"), pairs, tmp_path / "out", recipe=HEAD, steps=2)
    model, _ = loading.load_pretrained(tmp_path / "out")
    assert type(model).__name__ == "BertForSequenceClassification"
    with pytest.raises(CheckpointError, match=r"has a head for similarity: set .* to head"):
        finetune(
            make_checkpoint("bert"), pairs, tmp_path / "x", recipe=RECIPE,
            teacher=tmp_path / "out",
        )  # fmt: skip
    with pytest.raises(CheckpointError, match=r"has no head for similarity: set .* to cosine"):
        finetune(
            make_checkpoint("bert"), pairs, tmp_path / "x", recipe=HEAD,
            teacher=make_checkpoint("bert"),
        )  # fmt: skip


def test_an_adapter_is_read_again(make_binary, pairs, tmp_path):
    made = finetune(make_binary(), pairs, tmp_path / "out", recipe=RECIPE, steps=8, rank=2)
    found = evaluate_task(tmp_path / "out", pairs)["custom_spearman"]["compressed"]
    assert found == pytest.approx(made.metrics["spearman"])
    assert made.adapter_bytes < 40_000


def test_texts_apart_are_two_halves_and_padding_is_blind(make_model, tokenizer):
    model = make_model("bert").eval()
    examples = Examples(["a b c d e", "f"], ["g", "b a h c d e f"], [0.0, 1.0])
    data = tokenize(tokenizer, examples, model, 24, apart=True)
    assert data["length"] == [
        len(tokenizer(a)["input_ids"]) + len(tokenizer(b)["input_ids"])
        for a, b in zip(examples.first, examples.second, strict=True)
    ]
    batch = FinetuningCollator(tokenizer)(list(data))
    labels = batch.pop("labels")
    assert labels.tolist() == [0.0, 1.0]
    embeddings = mean_pool(model(**batch).last_hidden_state, batch["attention_mask"])
    for row, text in enumerate([*examples.first, *examples.second]):
        inputs = tokenizer(text, return_tensors="pt")
        alone = mean_pool(model(**inputs).last_hidden_state, inputs["attention_mask"])
        torch.testing.assert_close(embeddings[row], alone[0])


def test_what_is_similarity():
    one, two = Examples(["a"], None, [1.0]), Examples(["a"], ["b"], [1.0])
    assert Task("x", (), ("pearson",), dev={"": two}).is_similarity
    assert not Task("x", (), ("pearson",), dev={"": one}).is_similarity
    assert not Task("x", ("0", "1"), ("accuracy",), dev={"": two}).is_similarity
