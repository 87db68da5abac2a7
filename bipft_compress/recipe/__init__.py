"""Recipes: every choice of a compression in one validated YAML file."""

from bipft_compress.recipe.recipe import SHIPPED, Recipe, shipped_recipes
from bipft_compress.recipe.sections import (
    Activations,
    Finetuning,
    Initialisation,
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
    "Recipe",
    "Stage",
    "TaskObjective",
    "Terms",
    "Text",
    "shipped_recipes",
]
