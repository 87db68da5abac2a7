"""A head reads the mean of real tokens where the configuration says so, and padding never."""

from __future__ import annotations

import copy

import pytest
import torch

from bipft_compress import checkpoint
from bipft_compress.convert.classifier import with_classifier
from bipft_compress.convert.pooling import pooling_of
from bipft_compress.families import describe
from bipft_compress.nn.pooling import mean_pool
from bipft_compress.recipe import Recipe

RECIPE = Recipe.load({"embeddings": {"subvector": 4}})
LABELS = ("bad", "good")
IDS = torch.tensor([[0, 7, 8, 9, 10, 2], [0, 11, 2, 1, 1, 1]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])


@pytest.fixture
def classifier(make_pair):
    def make(family: str, pooling: str):
        torch.manual_seed(0)
        student = make_pair(family, "Model", RECIPE.model_dump()).student
        return with_classifier(student, LABELS, RECIPE, pooling)[0]

    return make


@torch.no_grad()
def test_the_first_place_holds_the_mean(family, classifier):
    model, plain = classifier(family, "mean"), classifier(family, "first")
    assert (pooling_of(model.config), pooling_of(plain.config)) == ("mean", "first")
    inputs = {"input_ids": IDS, "attention_mask": MASK, "output_hidden_states": True}
    ours, theirs = model.base_model(**inputs), plain.base_model(**inputs)
    mean = mean_pool(theirs.last_hidden_state, MASK)
    torch.testing.assert_close(ours.last_hidden_state[:, 0], mean)
    assert torch.equal(ours.last_hidden_state[:, 1:], theirs.last_hidden_state[:, 1:])
    for a, b in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        assert torch.equal(a, b)  # distillation looks at what the layers made
    pooler = describe(model).pooler
    if pooler is not None:
        expected = model.get_submodule(pooler)(mean).tanh()
        torch.testing.assert_close(ours.pooler_output, expected)
    logits, others = model(**inputs).logits, plain(**inputs).logits
    assert logits.shape == others.shape == (2, 2)
    assert not torch.allclose(logits, others, atol=1e-5)


def test_the_report_says_what_a_head_reads(make_pair):
    student = make_pair("bert", "Model", RECIPE.model_dump()).student
    for pooling in ("mean", "first"):
        decisions = with_classifier(student, LABELS, RECIPE, pooling)[1]
        (reason,) = (decision.reason for decision in decisions if decision.kind == "head")
        assert ("mean of all tokens" in reason) == (pooling == "mean")


@torch.no_grad()
def test_padding_is_not_in_the_mean(family, classifier):
    model = classifier(family, "mean")
    together = model(input_ids=IDS, attention_mask=MASK).logits
    alone = model(input_ids=IDS[1:, :3]).logits
    torch.testing.assert_close(together[1:], alone)


def test_a_kept_head_reads_what_it_did(classifier, make_model, tmp_path):
    full, _ = with_classifier(make_model("bert"), LABELS, None, "mean")
    assert pooling_of(full.config) == "first"  # transformers' own class reads the first
    mean = classifier("bert", "mean")
    again, _ = with_classifier(mean, LABELS, RECIPE, "first")
    assert pooling_of(again.config) == "mean"
    other, _ = with_classifier(mean, ("a", "b"), RECIPE, "first")
    assert pooling_of(other.config) == "first"
    mean.config.save_pretrained(tmp_path)
    assert pooling_of(checkpoint.load_config(tmp_path)) == "mean"


@torch.no_grad()
def test_a_copy_reads_its_own(classifier):
    model = classifier("bert", "mean")
    twin = copy.deepcopy(model)
    inputs = {"input_ids": IDS, "attention_mask": MASK}
    before = model(**inputs).logits
    assert torch.equal(twin(**inputs).logits, before)
    model.bert.pooler.dense.bias += 1
    assert torch.equal(twin(**inputs).logits, before)
