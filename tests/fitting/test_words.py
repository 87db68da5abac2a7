"""Words as a model by themselves: better on texts held out, or left as they were."""

from __future__ import annotations

import pytest
import torch

from bipft_compress.errors import RecipeError
from bipft_compress.families import get_module, teacher_of
from bipft_compress.fitting.compress import compress
from bipft_compress.fitting.layerwise import first_hidden
from bipft_compress.fitting.readout import fit_importance
from bipft_compress.fitting.words import train_words
from bipft_compress.nn import Readout
from bipft_compress.recipe import Recipe

SENTENCES = {"sentence_cosine": 1.0, "sentence_similarity": 2.0}
RECIPE = {"embeddings": {"code": "sign"}, "objective": SENTENCES}
READOUT = {"readout": {"rank": 4}}


def texts(count: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [
        torch.randint(5, 101, (5 + number % 7,), generator=generator).tolist()
        for number in range(count)
    ]


def table(pair) -> torch.Tensor:
    return get_module(pair.student, pair.encoder.word_embeddings).weight.detach().clone()


def trained(pair, count: int, **choices) -> bool:
    words = {"steps": 60, "learning_rate": 5e-3} | choices
    recipe = Recipe.load(RECIPE | {"words": words})
    return train_words(pair.student, teacher_of(pair.teacher), pair.encoder, texts(count), recipe)


@pytest.mark.parametrize("family", ["bert", "albert", "roberta", "modernbert"])
def test_the_table_alone_is_changed(make_pair, family):
    pair = make_pair(family, recipe=RECIPE | READOUT)
    readout = get_module(pair.student, pair.encoder.readout)
    assert isinstance(readout, Readout)
    fit_importance(readout, torch.full((pair.student.config.vocab_size,), 0.005))
    before = {name: tensor.clone() for name, tensor in pair.student.state_dict().items()}
    assert trained(pair, 400)
    changed = {
        name for name, tensor in pair.student.state_dict().items()
        if not torch.equal(tensor, before[name])
    }  # fmt: skip
    assert changed
    assert all(name.startswith(pair.encoder.word_embeddings) for name in changed)
    assert all(parameter.grad is None for parameter in pair.student.parameters())


def test_it_is_the_same_every_time(make_pair):
    tables = []
    for _ in range(2):
        pair = make_pair("bert", recipe=RECIPE)
        trained(pair, 300)
        tables.append(table(pair))
    assert torch.equal(*tables)


def test_what_makes_texts_held_out_no_better_is_undone(make_pair, caplog):
    pair = make_pair("bert", recipe=RECIPE)
    before = table(pair)
    caplog.set_level("INFO")
    # Steps so large that they shake the signs.
    assert not trained(pair, 30, learning_rate=100.0)
    assert torch.equal(table(pair), before)
    assert "30 texts are too few" in caplog.text
    assert not trained(pair, 9)


def test_padding_does_not_count(make_pair):
    pair = make_pair("bert", recipe=RECIPE)
    ids = torch.tensor([[7, 8, 9, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    padded = first_hidden(pair.student, pair.encoder, ids, mask)[:, :3]
    alone = first_hidden(pair.student, pair.encoder, ids[:, :3], mask[:, :3])
    torch.testing.assert_close(padded, alone)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (RECIPE | {"words": {"steps": 5}, "embeddings": {"code": "full"}}, r"words\.steps.*full"),
        ({"words": {"steps": 5}}, r"words\.steps needs sentence_cosine or sentence_similarity"),
        ({"readout": {"steps": 5}}, r"readout\.steps needs sentence_cosine"),
    ],
)
def test_a_recipe_that_cannot_train_is_refused_before_any_text(make_model, values, message):
    with pytest.raises(RecipeError, match=message):
        compress(make_model("bert"), None, Recipe.load(values), ["no text"])
