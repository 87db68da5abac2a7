"""Recipes: every fault is named, every shipped file is valid, nothing is lost on the way."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import yaml

from bipft_compress.errors import RecipeError
from bipft_compress.recipe import Recipe, shipped_recipes
from bipft_compress.training.arguments import training_arguments

SHIPPED = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"colour": "red"}, "colour"),
        ({"activations": {"bit": 1}}, r"activations\.bit"),
        ({"estimators": {"querry": 1}}, r"estimators\.querry"),
        ({"objective": {"weights": {}}}, r"objective\.weights"),
    ],
)
def test_an_unknown_key_is_named(values, key):
    with pytest.raises(RecipeError, match=f"unknown key '{key}'"):
        Recipe.load(values)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("activations", "bits", 3),
        ("activations", "clip", 0),
        ("activations", "clip", float("nan")),
        ("embeddings", "code", "one-bit"),
        ("embeddings", "frequent_fraction", 1.0),
        ("kept", "pooler", 2),
        ("estimators", "query", -1),
        ("estimators", "query", 1.5),
        ("initialisation", "calibration_tokens", 0),
        ("initialisation", "method", "magic"),
        ("initialisation", "layer_epochs", -1),
        ("text", "overlong", "drop"),
        ("text", "unit", "words"),
        ("objective", "mlm", -0.1),
        ("objective", "mlm", "much"),
        ("objective", "temperature", 0),
    ],
)
def test_a_value_out_of_range_is_named(section, key, value):
    with pytest.raises(RecipeError, match=rf"{section}\.{key} = .* is not valid") as error:
        Recipe.load({section: {key: value}})
    assert "\n" not in str(error.value)


def test_a_missing_recipe_lists_the_shipped_ones():
    with pytest.raises(RecipeError, match="no recipe 'nonsense'") as error:
        Recipe.load("nonsense")
    assert shipped_recipes()
    for name in shipped_recipes():
        assert name in str(error.value)


@pytest.mark.parametrize(
    "content",
    [b"activations: [1, 2", b"a: b: c", b"\xff\xfe\x00", b"- a\n- list\n", b"", b"just words"],
)
def test_what_is_no_mapping_is_refused(tmp_path, content):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"bad\.yaml is not"):
        Recipe.load(path)


def test_yaml_can_not_make_objects(tmp_path):
    path = tmp_path / "evil.yaml"
    path.write_text(f"name: !!python/object/apply:pathlib.Path.touch [{tmp_path / 'made'}]")
    with pytest.raises(RecipeError, match="not valid YAML"):
        Recipe.load(path)
    assert not (tmp_path / "made").exists()


def test_a_file_is_read_and_named_after_itself(tmp_path):
    path = tmp_path / "mine.yaml"
    # YAML 1.1 reads a number with an exponent and no dot as text.
    path.write_text(
        "estimators: {query: 3}\ntraining: {learning_rate: 1e-3}\n"
        "finetuning: {training: {learning_rate: 2E-5}}\n"
    )
    recipe = Recipe.load(path)
    assert recipe.name == "mine"
    assert recipe.estimators.query == 3
    assert recipe.estimators.key == 0
    assert recipe.training == {"learning_rate": 1e-3}
    assert recipe.finetuning.training == {"learning_rate": 2e-5}
    assert Recipe.load(str(path)) == recipe


def test_to_yaml_is_read_back(tmp_path):
    recipe = Recipe.load(
        {
            "name": "all",
            "activations": {"bits": 4, "clip": 1.5, "elastic": True},
            "embeddings": {"code": "sign"},
            "estimators": {"scores": 2},
            "text": {"max_tokens": 1000},
            "objective": {"hidden_states": 0.3},
            "training": {"max_steps": 5, "learning_rate": 2e-4},
        }
    )
    path = tmp_path / "again.yaml"
    path.write_text(recipe.to_yaml())
    assert Recipe.load(path) == recipe
    # Defaults are written out, so that an old run's file says everything.
    assert yaml.safe_load(recipe.to_yaml())["estimators"]["value"] == 0


def test_with_rank():
    recipe = Recipe.load({"estimators": {"query": 4, "bits": 32}})
    assert recipe.with_rank(None) is recipe
    ranks = recipe.with_rank(7).estimators.ranks()
    assert len(ranks) == 10
    assert set(ranks.values()) == {7}
    assert recipe.with_rank(7).estimators.bits == 32
    assert set(recipe.with_rank(0).estimators.ranks().values()) == {0}
    assert recipe.estimators.query == 4
    with pytest.raises(RecipeError, match="--rank -1"):
        recipe.with_rank(-1)


def test_patterns_choose_modules():
    recipe = Recipe.load(
        {
            "weights": {"bits": 2},
            "estimators": {"query": 3},
            "modules": {
                r"layer\.1\..*query": {"weights": 4, "rank": 0},
                "query|value": {"activations": 8, "dynamic_scale": "max"},
                "core": {"key_values": 4},
            },
        }
    )
    first = "bert.encoder.layer.0.block.attention"
    assert recipe.precision(f"{first}.query", "query") == (2, 8, 1, "max", 3)
    assert recipe.precision(f"{first}.key", "key") == (2, 1, 1, "none", 0)
    # The first pattern that matches counts, and matches whole names.
    second = "bert.encoder.layer.1.block.attention"
    assert recipe.precision(f"{second}.query", "query") == (4, 1, 1, "none", 0)
    assert recipe.precision(f"{second}.query_norm", "query") == (2, 1, 1, "none", 3)
    assert recipe.precision(f"{first}.core") == (2, 1, 4, "none", 0)
    assert recipe.with_rank(1).precision(f"{second}.query", "query").rank == 1
    assert Recipe.load(recipe.model_dump()) == recipe


def test_a_pattern_that_is_none_is_refused():
    with pytest.raises(RecipeError, match=r"modules.*no regular expression"):
        Recipe.load({"modules": {"query(": {"weights": 2}}})


def test_weights_leave_out_zeros_and_options():
    objective = Recipe.load({"objective": {"mlm": 1, "hidden_states": 0.5}}).objective
    assert objective.weights() == {"mlm": 1.0, "hidden_states": 0.5}
    assert Recipe().objective.weights() == {}


def test_sections_can_not_be_changed_by_accident():
    with pytest.raises(ValueError, match="frozen"):
        Recipe().activations.bits = 2


def test_shipped_recipes_are_the_files():
    assert SHIPPED
    assert shipped_recipes() == sorted(path.stem for path in SHIPPED)
    assert "default" in shipped_recipes()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_valid(path, tmp_path):
    recipe = Recipe.load(path.stem)
    assert recipe == Recipe.load(path)
    assert recipe.name == path.stem
    assert recipe.description
    assert "\n" not in recipe.description
    text = path.read_text(encoding="utf-8").splitlines()
    keys = [line.split(":")[0] for line in text if line and line[0] not in " #-"]
    assert all(a != b for a, b in itertools.combinations(keys, 2))
    for chosen in (recipe.training, recipe.finetuning.training):
        args = training_arguments(chosen, tmp_path, None)
        for key, value in chosen.items():
            got = getattr(args, key)
            assert getattr(got, "value", got) == value, key
