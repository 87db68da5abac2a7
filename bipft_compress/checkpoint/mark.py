"""The mark in ``config.json`` by which transformers finds our quantizer, or refuses the weights.

A `quantization_config` alone does not keep transformers without our quantizer from loading: it
warns of an unknown method, takes the tensors whose names it knows and draws all others at random.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bipft_compress.errors import CheckpointError, RecipeError
from bipft_compress.files import read_json
from bipft_compress.plugin import METHOD
from bipft_compress.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

KEY = "quantization_config"

VERSION = 2
"""Of what is written now. In 2 encoder layers hold blocks, so that tensors have other names."""

OLDEST_VERSION = 1
"""The oldest that is read: of version 0.1."""

Form = Literal["packed", "training"]
"""Bits that run, or latent weights that train."""

SECTIONS = ("weights", "activations", "embeddings", "kept", "estimators", "readout", "modules")
"""What of a recipe decides names, shapes and arithmetic of a binary model."""

_NOT_IN_0_1 = {"weights", "readout", "modules"}
"""Sections that version 0.1 did not have: its weights have one bit, its models no readout."""

_ADVICE = "`import bipft_compress` before this model is loaded"

_GUARDS: dict[str, Any] = {"transformers_weights": _ADVICE, "fusion_config": {_ADVICE: True}}
"""Entries of a configuration that transformers refuses, with their text, where our quantizer has
not taken them away. The first is known to more versions, the second is kept by `save_pretrained`.
"""


def is_packed(directory: Path) -> bool:
    """Whether `directory` says that it is a packed artefact, whole or not."""
    path = directory / "config.json"
    if not path.is_file():
        return False
    values = read_json(path).get(KEY)
    return values is not None and (not isinstance(values, dict) or form_of(values) == "packed")


def form_of(values: Mapping[str, Any]) -> str:
    """The `Form` that a `quantization_config` names; before it named any, all were packed."""
    return str(values.get("form", "packed"))


def mark(recipe: Recipe, form: Form) -> dict[str, Any]:
    """The `quantization_config` of a binary model."""
    sections = recipe.model_dump(mode="json", include=set(SECTIONS))
    return {"quant_method": METHOD, "version": VERSION, "form": form, **sections}


def guard(config: PretrainedConfig) -> None:
    """Make transformers refuse what `config` is written with, unless our quantizer is there."""
    for name, value in _GUARDS.items():
        setattr(config, name, value)


def unguard(config: PretrainedConfig) -> None:
    """Undo `guard`."""
    for name, value in _GUARDS.items():
        if getattr(config, name, None) == value:
            delattr(config, name)


def unmark(config: PretrainedConfig) -> PretrainedConfig:
    """The configuration of the full-precision model: `config`, changed in place."""
    unguard(config)
    if hasattr(config, KEY):
        delattr(config, KEY)
    return config


def write_config(directory: Path, model: PreTrainedModel, recipe: Recipe, form: Form) -> None:
    """Write the marked and guarded ``config.json`` of a binary model."""
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.quantization_config = mark(recipe, form)
    guard(config)
    config.to_json_file(directory / "config.json")


def read_recipe(directory: Path) -> Recipe:
    """The sections of the recipe that the packed model in `directory` was made with.

    Raises:
        CheckpointError: see `recipe_of`.
    """
    path = directory / "config.json"
    values: Any = read_json(path).get(KEY)
    if not isinstance(values, dict) or values.get("quant_method") != METHOD:
        raise CheckpointError(
            f"{directory} is not a packed artefact (its config.json has no {KEY} of {METHOD!r}): "
            "make one with `bipft-compress pack`."
        )
    return recipe_of(values, directory)


def recipe_of(values: Mapping[str, Any], where: str | Path) -> Recipe:
    """The sections of the recipe that a `quantization_config` of `METHOD` holds.

    Raises:
        CheckpointError: it is incomplete, or of a version that this release does not read.
    """
    version = values.get("version")
    if type(version) is not int or version < OLDEST_VERSION:
        raise CheckpointError(
            f"{where} is a packed artefact of version {version!r}, which is none: pack the "
            "checkpoint again."
        )
    if version > VERSION:
        raise CheckpointError(
            f"{where} is a packed artefact of version {version}, of a newer release; this one "
            f"reads up to {VERSION}: upgrade bipft-compress."
        )
    try:
        old = _NOT_IN_0_1 if version == OLDEST_VERSION else set()
        return Recipe.load({name: values[name] for name in SECTIONS if name not in old})
    except (KeyError, RecipeError) as error:
        raise CheckpointError(f"{where}: config.json has an invalid {KEY} ({error}).") from None
