"""A whole recipe: read, checked, and taken from one precision to the next."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from bipft_compress.errors import RecipeError
from bipft_compress.recipe.sections import (
    Activations,
    Embeddings,
    Estimators,
    Finetuning,
    Initialisation,
    Kept,
    Objective,
    Precision,
    Readout,
    Section,
    Stage,
    Text,
    TrainingArgumentValues,
    Weights,
    Words,
)
from bipft_compress.spec import DynamicScale

_PACKAGE = Path(__file__).parents[1]
# A wheel carries the recipes inside the package; in a checkout they lie beside it.
SHIPPED = next(
    (path for path in (_PACKAGE / "recipes", _PACKAGE.parent / "recipes") if path.is_dir()),
    _PACKAGE / "recipes",
)


class ModulePrecision(NamedTuple):
    """Bits and rank of one module; see `Precision` for what each is."""

    weights: int
    activations: int
    key_values: int
    dynamic_scale: DynamicScale
    rank: int


class Recipe(Section):
    """Every choice of a compression. Load one by name or file with `Recipe.load`."""

    name: str = Field("custom", description="Shown in reports.")
    description: str = Field("", description="One line, shown by `bipft-compress recipes`.")
    weights: Weights = Weights()
    activations: Activations = Activations()
    embeddings: Embeddings = Embeddings()
    kept: Kept = Kept()
    estimators: Estimators = Estimators()
    words: Words = Words()
    readout: Readout = Readout()
    modules: dict[str, Precision] = Field(
        default_factory=dict,
        description="Patterns (regular expressions) of the ends of modules' paths, and what these "
        "modules have instead; the first that matches counts (as PEFT's rank_pattern).",
    )
    initialisation: Initialisation = Initialisation()
    text: Text = Text()
    objective: Objective = Objective()
    schedule: tuple[Stage, ...] = Field(
        (),
        description="Precisions that pretraining goes on to after that of `activations`, each "
        "taught by the student before it (BiT).",
    )
    learning_rates: Literal["relative", "uniform"] = Field(
        "relative",
        description="Of pretraining: relative to the size of each tensor, training's for latent "
        "weights; or training's for all, as in the papers.",
    )
    training: TrainingArgumentValues = Field(
        default_factory=dict, description="Keyword arguments of transformers.TrainingArguments."
    )
    finetuning: Finetuning = Finetuning()

    @field_validator("modules")
    @classmethod
    def _patterns_compile(cls, modules: dict[str, Precision]) -> dict[str, Precision]:
        for pattern in modules:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return modules

    def precision(self, path: str, kind: str | None = None) -> ModulePrecision:
        """Bits and rank of a module.

        Args:
            path: of a binary linear layer or an attention, from the model's root.
            kind: of the linear layer, see `spec.KINDS`; None for an attention.
        """
        chosen = next(
            (
                precision
                for pattern, precision in self.modules.items()
                if re.fullmatch(rf"(.*\.)?({pattern})", path)
            ),
            Precision(),
        )
        # Bits are never 0, a rank may be.
        return ModulePrecision(
            chosen.weights or self.weights.bits,
            chosen.activations or self.activations.bits,
            chosen.key_values or self.activations.key_value_bits,
            chosen.dynamic_scale or self.activations.dynamic_scale,
            self.estimators.ranks().get(kind or "", 0) if chosen.rank is None else chosen.rank,
        )

    def check_start(self) -> None:
        """Refuse steps before pretraining that nothing drives.

        Of a recipe that a start is to be made by: what an artefact keeps of one has no objective.

        Raises:
            RecipeError: words or the readout are to be trained, and by no term, or in no code.
        """
        if self.words.steps and self.embeddings.code == "full":
            raise RecipeError(
                "words.steps trains a code: set it to 0 where embeddings.code is full."
            )
        terms = self.objective.sentence_cosine or self.objective.sentence_similarity
        for name, steps in (("words", self.words.steps), ("readout", self.readout.steps)):
            if steps and not terms:
                raise RecipeError(
                    f"{name}.steps needs sentence_cosine or sentence_similarity in the objective: "
                    "give one a weight, or set the steps to 0."
                )

    @model_validator(mode="after")
    def _shares_leave_a_first_stage(self) -> Self:
        if sum(stage.share for stage in self.schedule) >= 1:
            raise ValueError("the shares of the schedule must leave steps for the first precision")
        return self

    def next_stage(self) -> Self:
        """This recipe at the next precision of its schedule, which is then one stage shorter."""
        stage, *later = self.schedule
        bits = {"bits": stage.bits, "key_value_bits": stage.key_value_bits}
        return self.changed(activations=bits).model_copy(update={"schedule": tuple(later)})

    def last_stage(self) -> Self:
        """This recipe at the precision that its schedule ends with."""
        recipe = self
        while recipe.schedule:
            recipe = recipe.next_stage()
        return recipe

    @classmethod
    def load(cls, source: str | Path | dict[str, Any]) -> Self:
        """Read a recipe.

        Args:
            source: the name of a shipped recipe, the path of a YAML file, or a mapping.

        Raises:
            RecipeError: no such recipe, not YAML, an unknown key, or a value out of range.
        """
        if isinstance(source, dict):
            return cls._validate(source, "recipe")
        path = SHIPPED / f"{source}.yaml"
        if not path.is_file():
            path = Path(source)
        if not path.is_file():
            raise RecipeError(
                f"There is no recipe {str(source)!r}: give the path of a YAML file or one of "
                f"{', '.join(shipped_recipes())}."
            )
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            reason = str(error).splitlines()[0]
            raise RecipeError(f"Recipe {path} is not valid YAML ({reason}).") from None
        if not isinstance(values, dict):
            raise RecipeError(f"Recipe {path} is not a mapping of keys to values.")
        return cls._validate({"name": path.stem, **values}, f"Recipe {path}")

    @classmethod
    def _validate(cls, values: dict[str, Any], where: str) -> Self:
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            if first["type"] == "extra_forbidden":
                message = f"{where} has an unknown key {key!r}; remove it or correct its spelling."
            else:
                message = f"{where}: {key} = {first['input']!r} is not valid: {first['msg']}."
            raise RecipeError(message) from None

    def changed(self, **sections: Mapping[str, Any]) -> Self:
        """This recipe with other values in some sections, by key; they are not validated."""
        update = {
            name: getattr(self, name).model_copy(update=dict(values))
            for name, values in sections.items()
        }
        return self.model_copy(update=update)

    def with_words_as_coded(self) -> Self:
        """This recipe without the training of the word embeddings by themselves."""
        return self.changed(words={"steps": 0, "frozen": False})

    def with_rank(self, rank: int | None) -> Self:
        """This recipe with every estimator at `rank`; unchanged for None."""
        if rank is None:
            return self
        if rank < 0:
            raise RecipeError(f"--rank {rank} is not valid: a rank is 0 or more.")
        ranks = dict.fromkeys(self.estimators.ranks(), rank)
        modules = {
            pattern: precision.model_copy(update={"rank": None})
            for pattern, precision in self.modules.items()
        }
        return self.changed(estimators=ranks).model_copy(update={"modules": modules})

    def to_yaml(self) -> str:
        """The whole recipe, defaults included, as YAML that `load` reads back."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False)


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))
