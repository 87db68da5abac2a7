"""Recipes: every choice of a compression in one validated YAML file."""

from bipft_compress.recipe.recipe import SHIPPED, Recipe, shipped_recipes
from bipft_compress.recipe.sections import (
    Activations,
    Finetuning,
    Initialisation,
    Objective,
    Precision,
    Stage,
    TaskObjective,
    Terms,
    Text,
)

__all__ = [
    "SHIPPED",
    "Activations",
    "Finetuning",
    "Initialisation",
    "Objective",
    "Precision",
    "Recipe",
    "Stage",
    "TaskObjective",
    "Terms",
    "Text",
    "shipped_recipes",
]
