"""What a student of each class is asked to match."""

from __future__ import annotations

import torch

from bipft_compress.recipe import Recipe
from bipft_compress.training.distillation import Distillation


def test_a_model_for_multiple_choice(make_random_pair, padded):
    """It takes several texts an example; pretraining gives it one, and matches its encoder."""
    pair = make_random_pair("bert", "ForMultipleChoice")
    objective = Recipe.load({"objective": {"hidden_states": 1, "logits": 1}}).objective
    distillation = Distillation(pair.student, pair.teacher, pair.encoder, objective)
    terms = distillation(pair.student, padded)
    assert "hidden_states" in terms
    assert "logits" not in terms
    assert all(torch.isfinite(term) for term in terms.values())
