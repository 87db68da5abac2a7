"""A classifier's backbone is the one it was made from, tensor by tensor."""

from __future__ import annotations

import pytest
import torch

from bipft_compress.convert.classifier import class_names, with_classifier
from bipft_compress.errors import CheckpointError
from bipft_compress.families import describe
from bipft_compress.nn import BinaryLinear
from bipft_compress.recipe import Recipe

RECIPE = Recipe.load({"embeddings": {"subvector": 4}, "estimators": {"query": 2}})
LABELS = ("bad", "fair", "good")


def backbone(model):
    """State of the backbone, the pooler left out: some classes go without."""
    return {k: v for k, v in model.base_model.state_dict().items() if not k.startswith("pooler")}


@pytest.mark.parametrize("head", ["Model", "ForMaskedLM"])
@pytest.mark.parametrize("binary", [False, True])
def test_backbone_is_taken_over(family, make_model, make_pair, head, binary):
    recipe = RECIPE if binary else None
    model = make_pair(family, head, RECIPE.model_dump()).student if binary else None
    model = model or make_model(family, head)
    made, decisions = with_classifier(model, LABELS, recipe)
    ours, theirs = backbone(made), backbone(model)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert type(made).__name__.endswith("ForSequenceClassification")
    assert class_names(made.config) == list(LABELS)
    assert bool(decisions) == binary
    binaries = sum(isinstance(part, BinaryLinear) for part in made.modules())
    assert binaries == (len(list(describe(made).linears())) if binary else 0)
    assert made(torch.tensor([[0, 7, 8, 2]])).logits.shape == (1, 3)
    # The original is left as it was.
    assert class_names(model.config) != list(LABELS)


def test_pooler_is_taken_over_where_there_is_one(make_model):
    model = make_model("bert")
    made, _ = with_classifier(model, LABELS, None)
    assert torch.equal(made.bert.pooler.dense.weight, model.pooler.dense.weight)


def test_a_head_for_the_same_labels_is_kept(make_model):
    first, _ = with_classifier(make_model("bert"), LABELS, None)
    again, _ = with_classifier(first, LABELS, None)
    assert torch.equal(again.classifier.weight, first.classifier.weight)
    other, _ = with_classifier(first, ("bad", "good"), None)
    assert other.classifier.weight.shape[0] == 2
    other, _ = with_classifier(first, ("bad", "good", "best"), None)
    assert not torch.equal(other.classifier.weight, first.classifier.weight)


def test_regression_has_one_number(make_model):
    made, _ = with_classifier(make_model("bert"), (), None)
    assert made.config.num_labels == 1
    assert class_names(made.config) == []


def test_a_tensor_without_a_place_is_refused(make_model):
    model = make_model("bert")
    model.encoder.extra = torch.nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match=r"2 tensors are unmatched, such as encoder\.extra"):
        with_classifier(model, LABELS, None)
