"""Training checkpoints hold only numbers that the packed artefact can store."""

from __future__ import annotations

import pytest
import torch

from bipft_compress import jobs, load
from bipft_compress.errors import RecipeError
from bipft_compress.fitting.compress import compress
from bipft_compress.loading import state_to_save
from bipft_compress.recipe import Recipe
from bipft_compress.storage.plan import round_to_stored, storage_plan
from bipft_compress.structure.swap import swap

QUERY = "encoder.layer.0.block.attention.query"


def _fp16(tensor):
    return torch.equal(tensor.half().float(), tensor)


@pytest.mark.parametrize("head", ["Model", "ForMaskedLM", "ForSequenceClassification"])
@pytest.mark.parametrize("code", ["full", "sign", "frequency-aware"])
def test_the_plan_is_the_state_of_a_training_checkpoint(make_random_pair, family, head, code):
    recipe = {"embeddings": {"code": code}, "estimators": {"query": 1, "scores": 1}}
    pair = make_random_pair(family, head, recipe)
    plan = storage_plan(pair.student, pair.encoder, Recipe.load(recipe))
    assert plan.keys() == state_to_save(pair.student).keys()
    names = [storage.name for storage in plan.values()]
    assert len(names) == len(set(names))
    assert not [name for name in names if "parametrizations" in name or "latent" in name]
    signs = {storage.name for storage in plan.values() if storage.code == "signs"}
    latent = {f"{path}.weight" for path, _ in pair.encoder.linears()}
    if pair.encoder.layers[0].spec.attention.relative is not None:
        tables = ("position_key", "position_query")
        latent |= {f"{layer.attention}.{name}" for layer in pair.encoder.layers for name in tables}
    if code == "sign":
        latent.add(f"{pair.encoder.word_embeddings}.weight")
    assert signs == latent


def test_rounded_as_the_recipe_says(make_pair):
    recipe = {
        "estimators": {"query": 2, "bits": 16},
        "kept": {"vectors": 32, "position_embeddings": 16, "pooler": 8},
    }
    pair = make_pair("bert", "ForSequenceClassification", recipe)
    before = {name: tensor.clone() for name, tensor in pair.student.state_dict().items()}
    round_to_stored(pair.student, pair.encoder, Recipe.load(recipe))
    after = pair.student.state_dict()
    half = [
        f"bert.{QUERY}.estimator.up",
        "bert.embeddings.position_embeddings.weight",
        "bert.pooler.dense.parametrizations.weight.0.scale",
        "bert.embeddings.word_embeddings.rounding.scale",
        "bert.embeddings.word_embeddings.centroid_rounding.scale",
    ]
    for name in half:
        assert _fp16(after[name])
        assert not _fp16(before[name])
    for name in (f"bert.{QUERY}.bias", f"bert.{QUERY}.weight", "classifier.weight"):
        assert torch.equal(after[name], before[name])
    round_to_stored(pair.student, pair.encoder, Recipe.load(recipe))
    assert all(torch.equal(after[name], x) for name, x in pair.student.state_dict().items())


def test_no_scale_becomes_zero(make_model):
    """A row of zeros, as RoBERTa's padding position is, has a step of almost nothing."""
    model = make_model("roberta")
    with torch.no_grad():
        model.embeddings.position_embeddings.weight[1] = 0
    encoder, _ = swap(model, Recipe())
    with torch.no_grad():
        model.get_submodule(next(encoder.linears())[0]).activation_scale.fill_(1e-9)
    round_to_stored(model, encoder, Recipe())
    state = model.state_dict()
    assert state["embeddings.position_embeddings.parametrizations.weight.0.scale"].min() > 0
    assert state[f"{QUERY}.activation_scale"] == 2**-24
    assert model.embeddings.position_embeddings.weight[1].abs().max() == 0


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        (f"{QUERY}.bias", 7e4, "kept.vectors to 32"),
        (f"{QUERY}.estimator.up", -1e6, "estimators.bits to 32"),
        ("embeddings.LayerNorm.weight", float("nan"), "kept.vectors to 32"),
        ("pooler.dense.parametrizations.weight.0.scale", 7e4, "kept.pooler to 32"),
        ("embeddings.word_embeddings.rounding.scale", 7e4, "embeddings.code to full"),
    ],
)
def test_a_number_beyond_fp16_is_refused(make_model, name, value, says):
    model, recipe = make_model("bert"), Recipe.load({"estimators": {"query": 1}})
    encoder, _ = swap(model, recipe)
    model.state_dict()[name].view(-1)[-1] = value
    with pytest.raises(RecipeError, match=f"{name} .* set {says}"):
        round_to_stored(model, encoder, recipe)


def test_compress_leaves_storable_numbers(make_model, tokenizer, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"ab cd ef gh a{c} b{c} ab ac ad" for c in "abcdefgh" * 5))
    recipe = Recipe.load({"initialisation": {"calibration_tokens": 200}})
    made = compress(make_model("bert"), tokenizer, recipe, text)
    plan = storage_plan(made.model, made.encoder, recipe)
    state = made.model.state_dict()
    stored = [state[name] for name, storage in plan.items() if storage.code == "number"]
    assert stored
    assert all(map(_fp16, stored))


def test_packing_changes_nothing(make_checkpoint, tmp_path):
    """What `compress` wrote and what runs packed are the same model, to the last bit stored."""
    recipe = Recipe.load({"initialisation": {"calibration_tokens": 200}})
    jobs.compress_checkpoint(make_checkpoint("bert"), recipe, tmp_path / "binary")
    jobs.pack_checkpoint(tmp_path / "binary", tmp_path / "packed")
    model, tokenizer, _ = load(tmp_path / "binary")
    packed, _, _ = load(tmp_path / "packed")
    batch = tokenizer(["ab cd", "aa bb ce"], padding=True, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(packed(**batch)[0], model(**batch)[0], atol=1e-5, rtol=0)
