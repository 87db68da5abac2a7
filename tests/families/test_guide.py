"""The guide's family goes through everything: its code is what runs here."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from bipft_compress.errors import UnsupportedModelError
from bipft_compress.families import FAMILIES, check_supported, describe, get_module
from bipft_compress.families.encoder import GUIDE
from bipft_compress.fitting.compress import compress
from bipft_compress.nn import BinaryLinear, Block
from bipft_compress.recipe import Recipe
from bipft_compress.structure.swap import swap
from bipft_compress.training.distillation import Distillation

PAGE = Path(__file__).parents[2] / GUIDE
RECIPE = Recipe.load(
    {
        "initialisation": {"calibration_tokens": 400, "batch_tokens": 200, "sequence_length": 24},
        "embeddings": {"subvector": 4},
        "objective": {"hidden_states": 1.0, "attention_scores": 1.0, "directions": 1.0},
    }
)


@pytest.fixture
def toy(monkeypatch) -> ModuleType:
    """What the page defines; its family is in the table while a test runs."""
    module = ModuleType("toy")
    monkeypatch.setitem(sys.modules, "toy", module)
    monkeypatch.setitem(FAMILIES, "toy", None)  # taken out again afterwards
    torch.manual_seed(0)
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(code, str(PAGE), "exec", dont_inherit=True), module.__dict__)
    return module


def test_it_is_short():
    assert len(PAGE.read_text().splitlines()) <= 120


def test_its_parts_are_found(toy):
    encoder = describe(toy.model)
    assert [layer.path for layer in encoder.layers] == ["layers.0", "layers.1"]
    assert encoder.word_embeddings == "words"
    assert encoder.embeddings_kept == ("positions",)
    attention, (feed_forward,) = (
        encoder.layers[0].spec.attention,
        encoder.layers[0].spec.feed_forward,
    )
    assert attention.norm_first
    assert attention.bias == (True,) * 4
    assert feed_forward.bias == (True, False)


def test_it_is_compressed_and_trained(toy, tokenizer, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"ab cd ef gh a{c} b{c} c{c} ab ac ad" for c in "abcdefgh" * 5))
    made = compress(toy.model, tokenizer, RECIPE, text)
    assert 0 < made.layer_errors[-1] < 1
    student, encoder = made.model, made.encoder
    binary = [module for module in student.modules() if isinstance(module, BinaryLinear)]
    assert len(binary) == 12
    distillation = Distillation(student, toy.model, encoder, RECIPE.objective)
    batch = {"input_ids": toy.ids, "attention_mask": toy.mask}
    optimizer = torch.optim.AdamW(student.parameters(), 1e-3)
    before = get_module(student, encoder.layers[0].block).attention.query.weight.clone()
    losses = []
    for _ in range(10):
        terms = distillation(student, batch)
        assert terms.keys() == {"hidden_states", "attention_scores", "directions"}
        losses.append(distillation.total(terms))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
    assert not torch.equal(binary[0].weight, before)


def test_a_family_that_is_not_in_the_table_is_refused_with_the_guide(toy, monkeypatch):
    monkeypatch.delitem(FAMILIES, "toy")
    with pytest.raises(UnsupportedModelError, match=re.escape("'toy' is not supported")) as error:
        check_supported(toy.model.config)
    assert GUIDE in str(error.value)


def test_a_mistake_in_its_parts_is_named(toy):
    toy.model.layers[1].up = torch.nn.Linear(36, 51)
    with pytest.raises(UnsupportedModelError, match=r"description: feed_forward\.0\.down\.weight"):
        swap(toy.model, RECIPE)
    assert not any(isinstance(module, Block) for module in toy.model.modules())
