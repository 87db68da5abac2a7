"""A head reads the mean of real tokens where the configuration says so, and padding never."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
import transformers

from bipft_compress import loading
from bipft_compress.families import FAMILIES, describe
from bipft_compress.nn.pooling import mean_pool
from bipft_compress.recipe import Recipe
from bipft_compress.structure.heads import with_classifier
from bipft_compress.structure.outputs import adapt_outputs
from bipft_compress.structure.pooling import (
    KEY,
    POOLING_FAMILIES,
    choose_pooling,
    pooling_of,
)

RECIPE = Recipe.load({"embeddings": {"subvector": 4}})
LABELS = ("bad", "good")
IDS = torch.tensor([[0, 7, 8, 9, 10, 2], [0, 11, 2, 1, 1, 1]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])


@pytest.fixture
def full(make_model):
    """A full-precision classifier that reads what it is told."""

    def make(family: str, pooling: str, **config):
        torch.manual_seed(0)
        model = make_model(family, "ForSequenceClassification", **config)
        choose_pooling(model.config, pooling)
        made = type(model)(model.config).eval()
        made.load_state_dict(model.state_dict())
        adapt_outputs(made)
        return made

    return make


@pytest.fixture
def classifier(make_pair):
    """A binary classifier, its head fresh."""

    def make(family: str, pooling: str):
        torch.manual_seed(0)
        student = make_pair(family, "Model", RECIPE.model_dump()).student
        return with_classifier(student, LABELS, RECIPE, pooling)[0]

    return make


@torch.no_grad()
def test_the_first_place_holds_the_mean(family, full):
    model, plain = full(family, "mean"), full(family, "first")
    assert (pooling_of(model.config), pooling_of(plain.config)) == ("mean", "first")
    inputs = {"input_ids": IDS, "attention_mask": MASK, "output_hidden_states": True}
    ours, theirs = model.base_model(**inputs), plain.base_model(**inputs)
    for a, b in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        assert torch.equal(a, b)  # distillation looks at what the layers made
    logits, others = model(**inputs).logits, plain(**inputs).logits
    assert logits.shape == others.shape == (2, 2)
    assert not torch.allclose(logits, others, atol=1e-5)
    if family in POOLING_FAMILIES:
        assert torch.equal(ours.last_hidden_state, theirs.last_hidden_state)
        return
    mean = mean_pool(theirs.last_hidden_state, MASK)
    torch.testing.assert_close(ours.last_hidden_state[:, 0], mean)
    assert torch.equal(ours.last_hidden_state[:, 1:], theirs.last_hidden_state[:, 1:])
    pooler = describe(model).pooler
    if pooler is not None and "pooler_output" in ours:
        expected = model.get_submodule(pooler)(mean).tanh()
        torch.testing.assert_close(ours.pooler_output, expected)


def _by_position(model, mask):
    """The inputs before the mask and the mask itself, by position."""
    arguments = [IDS]
    names = list(inspect.signature(type(model.base_model).forward).parameters)[1:]
    arguments += [None] * (names.index("attention_mask") - 1)
    return [*arguments, mask]


@torch.no_grad()
@pytest.mark.parametrize("name", ["bert", "distilbert", "xmod", "albert", "deberta-v2"])
def test_a_mask_may_be_given_by_position(full, name):
    backbone = full(name, "mean").base_model
    expected = backbone(input_ids=IDS, attention_mask=MASK)[0]
    assert torch.equal(backbone(*_by_position(backbone, MASK))[0], expected)
    assert not torch.allclose(backbone(*_by_position(backbone, None))[0][1], expected[1])


@torch.no_grad()
def test_tuples_hold_the_same(family, full):
    model = full(family, "mean")
    inputs = {"input_ids": IDS, "attention_mask": MASK, "output_hidden_states": True}
    named, plain = model(**inputs), model(**inputs, return_dict=False)
    assert torch.equal(plain[0], named.logits)
    named, plain = model.base_model(**inputs), model.base_model(**inputs, return_dict=False)
    assert isinstance(plain, tuple)
    assert torch.equal(plain[0], named.last_hidden_state)
    if named.get("pooler_output") is not None:
        assert torch.equal(plain[1], named.pooler_output)
    for ours, theirs in zip(plain[-1], named.hidden_states, strict=True):
        assert torch.equal(ours, theirs)


@torch.no_grad()
@pytest.mark.parametrize("name", ["bert", "albert", "layoutlm", "ernie", "rembert", "nomic_bert"])
def test_the_pooler_runs_once(full, name):
    model, calls = full(name, "mean"), []
    dense = model.get_submodule(describe(model).pooler)
    dense.register_forward_hook(lambda *_: calls.append(1))
    model(input_ids=IDS, attention_mask=MASK)
    assert calls == [1]


@torch.no_grad()
def test_hooks_of_hidden_states_are_installed_once(full):
    model = full("bert", "mean")
    for _ in range(3):
        hidden = model(input_ids=IDS, output_hidden_states=True).hidden_states
    assert len(hidden) == 3
    assert all(len(layer._forward_hooks) <= 1 for layer in model.bert.encoder.layer)


def test_a_mask_of_pairs_of_tokens_is_refused(full):
    mask = torch.ones(2, 6, 6)
    with pytest.raises(ValueError, match=r"\(batch, length\)"):
        full("bert", "mean").base_model(input_ids=IDS, attention_mask=mask)


def test_families_that_pool_by_themselves_are_known():
    for model_type in FAMILIES:
        own = getattr(transformers.CONFIG_MAPPING[model_type], KEY, None)
        assert (own is not None) == (model_type in POOLING_FAMILIES)


def test_families_that_pool_by_themselves_keep_their_words():
    config = transformers.EuroBertConfig()
    assert pooling_of(config) == config.classifier_pooling == "late"
    for chosen, stored in (("first", "bos"), ("mean", "mean"), ("late", "late")):
        choose_pooling(config, chosen)
        assert (config.classifier_pooling, pooling_of(config)) == (stored, chosen)
    config = transformers.ModernBertConfig()
    assert pooling_of(config) == "first"
    choose_pooling(config, "mean")
    assert config.classifier_pooling == "mean"
    choose_pooling(config, "first")
    assert config.classifier_pooling == "cls"


@torch.no_grad()
@pytest.mark.parametrize("name", POOLING_FAMILIES)
def test_a_mean_is_not_taken_twice(full, name):
    model = full(name, "mean")
    plain = copy.deepcopy(model)
    plain.base_model.__dict__.pop("forward", None)
    inputs = {"input_ids": IDS, "attention_mask": MASK}
    assert torch.equal(model(**inputs).logits, plain(**inputs).logits)


def test_the_report_says_what_a_head_reads(make_pair):
    student = make_pair("bert", "Model", RECIPE.model_dump()).student
    for pooling in ("mean", "first"):
        decisions = with_classifier(student, LABELS, RECIPE, pooling)[1]
        (reason,) = (decision.reason for decision in decisions if decision.kind == "head")
        assert ("mean of all tokens" in reason) == (pooling == "mean")


@torch.no_grad()
def test_padding_is_not_in_the_mean(family, full):
    if family == "mobilebert":
        pytest.skip("its embeddings of a token look at the next one, padding or not")
    model = full(family, "mean")
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
    assert pooling_of(loading.load_config(tmp_path)) == "mean"


@torch.no_grad()
def test_a_copy_reads_its_own(classifier):
    model = classifier("bert", "mean")
    twin = copy.deepcopy(model)
    inputs = {"input_ids": IDS, "attention_mask": MASK}
    before = model(**inputs).logits
    assert torch.equal(twin(**inputs).logits, before)
    model.bert.pooler.dense.bias += 1
    assert torch.equal(twin(**inputs).logits, before)
    assert not torch.equal(model(**inputs).logits, before)
