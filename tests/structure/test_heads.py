"""A classifier's backbone is the one it was made from, tensor by tensor."""

from __future__ import annotations

import pytest
import torch

from bipft_compress.errors import CheckpointError, UnsupportedModelError
from bipft_compress.families import describe
from bipft_compress.nn import BinaryLinear
from bipft_compress.recipe import Recipe
from bipft_compress.structure.heads import class_names, take_head, with_classifier, without_head

from ..conftest import LACKING

RECIPE = Recipe.load({"embeddings": {"subvector": 4}, "estimators": {"query": 2}})
LABELS = ("bad", "fair", "good")


def backbone(model):
    """State of the backbone, the pooler left out: some classes go without."""
    return {k: v for k, v in model.base_model.state_dict().items() if not k.startswith("pooler")}


@pytest.fixture
def classified(family):
    """Every family that has classifiers."""
    if "ForSequenceClassification" in LACKING.get(family, ()):
        pytest.skip(f"transformers has no classifier of type {family}")
    return family


@pytest.mark.parametrize("head", ["Model", "ForMaskedLM"])
@pytest.mark.parametrize("binary", [False, True])
def test_backbone_is_taken_over(classified, make_model, make_random_pair, head, binary):
    recipe = RECIPE if binary else None
    model = make_random_pair(classified, head, RECIPE.model_dump()).student if binary else None
    model = model or make_model(classified, head)
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


def test_a_family_without_classifiers_is_refused(make_model):
    with pytest.raises(UnsupportedModelError, match="classification model of type splinter"):
        with_classifier(make_model("splinter"), LABELS, None)


@pytest.mark.parametrize("bits", [4, 32])
def test_a_head_is_taken_from_a_teacher(classified, make_model, make_random_pair, bits):
    recipe = RECIPE.model_copy(update={"kept": RECIPE.kept.model_copy(update={"pooler": bits})})
    teacher, _ = with_classifier(make_model(classified, seed=5), LABELS, None)
    pair = make_random_pair(classified, "Model", recipe.model_dump())
    student, _ = with_classifier(pair.student, LABELS, recipe)
    before = backbone(student)
    take_head(student, teacher)
    assert all(torch.equal(value, before[name]) for name, value in backbone(student).items())
    prefix = f"{teacher.base_model_prefix}."
    for name, value in teacher.state_dict().items():
        if not name.startswith(prefix):
            assert torch.equal(student.state_dict()[name], value)
    pooler = describe(teacher).pooler
    if pooler is not None:
        theirs = teacher.get_submodule(pooler).weight
        ours = student.get_submodule(pooler).weight
        # Rounded anew with scales that suit it: at most half a step of 7 away, or clipped.
        step = theirs.abs().amax(1, keepdim=True) / 7 if bits == 4 else torch.zeros(1, 1)
        assert ((ours - theirs).abs() <= step * 3.5 + 1e-7).all()
        assert (ours - theirs).square().mean() < 0.03 * theirs.square().mean()


def test_a_head_of_another_shape_is_left(make_model):
    teacher, _ = with_classifier(make_model("bert"), ("a", "b"), None)
    student, _ = with_classifier(make_model("bert"), LABELS, None)
    before = student.classifier.weight.clone()
    take_head(student, teacher)
    assert torch.equal(student.classifier.weight, before)
    take_head(student, make_model("bert"))
    assert torch.equal(student.classifier.weight, before)


@pytest.mark.parametrize("head", ["Model", "ForMaskedLM"])
def test_without_a_head(family, make_model, make_random_pair, head):
    student = make_random_pair(family, head, RECIPE.model_dump()).student
    for model, recipe in ((make_model(family, head), None), (student, RECIPE)):
        made, decisions = without_head(model, recipe)
        assert made.base_model is made
        assert bool(decisions) == (recipe is not None)
        theirs = backbone(model)
        assert all(torch.equal(value, theirs[name]) for name, value in backbone(made).items())
