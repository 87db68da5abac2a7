"""The fitted readout: least squares, chosen on texts left out, and zero where it helps nothing."""

from __future__ import annotations

import pytest
import torch

from bipft_compress.families import get_module, teacher_of
from bipft_compress.fitting.readout import fit_importance, fit_readout, regress
from bipft_compress.losses import sentence_similarity
from bipft_compress.nn import Readout
from bipft_compress.nn.pooling import mean_pool
from bipft_compress.recipe import Recipe
from bipft_compress.structure.knowledge import Knowledge

FULL = {"embeddings": {"code": "full"}, "kept": {"position_embeddings": 32, "pooler": 32}}


@pytest.fixture(scope="module")
def texts():
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randint(5, 101, (5 + number % 9,), generator=generator).tolist()
        for number in range(1200)
    ]


def test_importance_is_the_smooth_inverse_frequency():
    readout = Readout(3, (0,), 2, 5)
    fit_importance(readout, torch.tensor([0.5, 1e-3, 1e-5, 3e-3, 0.495], dtype=torch.float64))
    ids = torch.arange(5).unsqueeze(0)
    # 0.002, 0.5, 0.99, 0.25 and 0.002 in sixteenths, of which none is 0.
    expected = torch.tensor([[1.0, 8.0, 16.0, 4.0, 1.0]]) / 16
    assert torch.equal(readout.weights(ids, torch.ones_like(ids)), expected)


@torch.no_grad()
def _embeddings(model, texts, pooling):
    rows = []
    for text in texts:
        ids = torch.tensor([text])
        hidden = model.base_model(ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        rows.append(hidden[0, 0] if pooling == "first" else hidden[0].mean(0))
    return torch.stack(rows)


@pytest.mark.parametrize("pooling", ["mean", "first"])
@pytest.mark.parametrize("bits", [4, 32])
def test_brings_embeddings_nearer_to_the_original(make_pair, texts, pooling, bits):
    recipe = FULL | {"readout": {"rank": 12, "bits": bits, "pooling": pooling}}
    pair = make_pair("bert", recipe=recipe)
    others = texts[1000:]
    target = _embeddings(pair.teacher, others, pooling)
    before = (target - _embeddings(pair.student, others, pooling)).square().sum()
    knowledge = fit_readout(
        pair.student,
        teacher_of(pair.teacher),
        pair.encoder,
        texts[:1000],
        Recipe.load({"readout": {"pooling": pooling}}),
    )
    after = (target - _embeddings(pair.student, others, pooling)).square().sum()
    assert after < 0.9 * before
    # What it says of texts left out holds for others.
    given = _embeddings(pair.student, others, pooling)
    cosine = float(torch.nn.functional.cosine_similarity(given, target).mean())
    assert cosine == pytest.approx(knowledge.embedding, abs=0.05)


def test_fitting_again_forgets_what_was_fitted(make_pair, texts):
    pair = make_pair("bert", recipe=FULL | {"readout": {"rank": 4, "bits": 4}})
    teacher, readout = teacher_of(pair.teacher), get_module(pair.student, pair.encoder.readout)
    fit_readout(pair.student, teacher, pair.encoder, texts[:200])
    first = {name: value.clone() for name, value in readout.state_dict().items()}
    fit_readout(pair.student, teacher, pair.encoder, texts[:200])
    for name, value in readout.state_dict().items():
        assert torch.equal(value, first[name])


def test_too_few_texts_leave_it_at_zero(make_pair, texts):
    pair = make_pair("bert", recipe=FULL | {"readout": {"rank": 4, "bits": 4}})
    knowledge = fit_readout(pair.student, teacher_of(pair.teacher), pair.encoder, texts[:6])
    assert knowledge == Knowledge()
    readout = get_module(pair.student, pair.encoder.readout)
    assert not readout.up.weight.any()
    assert not readout.up.bias.any()


def test_layers_are_measured_without_a_readout(make_pair, texts):
    pair = make_pair("bert", recipe=FULL)
    knowledge = fit_readout(pair.student, teacher_of(pair.teacher), pair.encoder, texts)
    full, compressed = knowledge.full_precision, knowledge.compressed
    assert len(full) == len(compressed) == 3
    # From its own last layer the original's embedding is read without loss; its layers add to it.
    assert full[-1] == pytest.approx(1, abs=1e-3)
    assert full[0] < full[1] < full[2]
    assert compressed[0] == pytest.approx(full[0], abs=0.01)  # the embeddings are the original's
    assert compressed[2] < 0.95


def test_at_full_rank_it_is_least_squares():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 7, generator=generator, dtype=torch.float64) + 3
    y = x @ torch.randn(7, 5, generator=generator, dtype=torch.float64) - 2
    y += 0.3 * torch.randn(200, 5, generator=generator, dtype=torch.float64)
    ones = torch.cat([x, torch.ones(200, 1, dtype=x.dtype)], 1)
    solved = torch.linalg.lstsq(ones, y).solution
    for rank in (None, 5):
        (fit,) = regress(x, y, [1e-12], rank)
        matrix = fit.up if fit.down is None else fit.up @ fit.down
        torch.testing.assert_close(matrix.T, solved[:-1], rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(fit.bias, solved[-1], rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(fit(x), ones @ solved, rtol=1e-6, atol=1e-8)


def test_padding_changes_nothing(make_pair, texts):
    pair = make_pair("bert", recipe=FULL | {"readout": {"rank": 4, "bits": 4}})
    fit_readout(pair.student, teacher_of(pair.teacher), pair.encoder, texts[:200])
    short = torch.tensor([texts[0]])
    padded = torch.cat([short, torch.ones(1, 6, dtype=torch.long)], 1)
    mask = torch.cat([torch.ones_like(short), torch.zeros(1, 6, dtype=torch.long)], 1)
    with torch.no_grad():
        alone = pair.student(short, attention_mask=torch.ones_like(short)).last_hidden_state
        beside = pair.student(padded, attention_mask=mask).last_hidden_state
    wanted = mean_pool(alone, torch.ones_like(short))
    torch.testing.assert_close(mean_pool(beside, mask), wanted, rtol=1e-5, atol=1e-5)


def test_the_descent_brings_similarities_nearer(make_pair, texts):
    """The closed form knows embeddings one by one; what counts is which are alike."""
    left = {}
    for steps in (0, 60):
        recipe = {
            "embeddings": {"code": "sign"},
            "readout": {"rank": 12, "steps": steps},
            "objective": {"sentence_similarity": 1.0},
        }
        pair = make_pair("bert", recipe=recipe)
        teacher = teacher_of(pair.teacher)
        fit_readout(pair.student, teacher, pair.encoder, texts[:1000], Recipe.load(recipe))
        own, wanted = (
            _embeddings(model, texts[1000:], "mean") for model in (pair.student, pair.teacher)
        )
        left[steps] = float(sentence_similarity(own, wanted, 0.05))
    assert left[60] < 0.98 * left[0]
