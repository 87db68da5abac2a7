"""Every head class of every family: what becomes binary, what does not, and what is counted."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from bipft_compress.errors import RecipeError
from bipft_compress.families import describe, get_module, use_blocks
from bipft_compress.nn import (
    BinaryAttention,
    BinaryLinear,
    FrequencyAwareEmbedding,
    SignEmbedding,
    TiedDecoder,
)
from bipft_compress.recipe import Recipe
from bipft_compress.structure.swap import swap

from ..conftest import LACKING, SIZES

HEADS = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification")
MODELS = [
    (family, head) for family in SIZES for head in HEADS if head not in LACKING.get(family, ())
]
MODELS += [("bert", "ForPreTraining"), ("electra", "ForPreTraining")]
CODES = {"full": nn.Embedding, "sign": SignEmbedding, "frequency-aware": FrequencyAwareEmbedding}


@pytest.fixture(params=MODELS, ids="-".join)
def original(make_model, request):
    return make_model(*request.param)


def _recipe(**sections) -> Recipe:
    return Recipe.load(sections)


def test_the_encoder_and_nothing_else_becomes_binary(original):
    use_blocks(original)
    model = copy.deepcopy(original)
    encoder, _ = swap(model, _recipe())
    linears = {path for path, _ in encoder.linears()}
    binary = {n for n, m in model.named_modules() if isinstance(m, BinaryLinear)}
    assert binary == linears
    attentions = {n for n, m in model.named_modules() if isinstance(m, BinaryAttention)}
    assert attentions == {layer.attention for layer in encoder.layers}
    # Linear layers of heads are the ones they were, at the same places.
    before = {n for n, m in original.named_modules() if isinstance(m, nn.Linear)} - linears
    before -= {encoder.decoder}
    after = {n for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    assert before <= after
    assert describe(model) == encoder


def test_it_starts_from_the_layers_of_transformers_as_well(make_model, family):
    """Blocks first or not: the same modules, shapes and decisions."""
    plain, blocks = make_model(family), make_model(family)
    use_blocks(blocks)
    (first, decisions), (second, others) = swap(plain, _recipe()), swap(blocks, _recipe())
    assert first == second
    assert decisions == others
    shapes = [
        {name: value.shape for name, value in model.state_dict().items()}
        for model in (plain, blocks)
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(("code", "kept_bits"), [("full", 16), ("sign", 8), ("frequency-aware", 8)])
def test_decisions_count_every_parameter_once(original, code, kept_bits):
    kept = {"position_embeddings": kept_bits, "pooler": kept_bits}
    # Blocks hold what the arithmetic needs: of DeBERTa's projections of a table, the results.
    use_blocks(original)
    total = sum(parameter.numel() for parameter in original.parameters())
    holders = {n for n, m in original.named_modules() if list(m.parameters(recurse=False))}
    encoder, decisions = swap(original, _recipe(embeddings={"code": code}, kept=kept))
    modules = [decision.module for decision in decisions]
    assert len(modules) == len(set(modules))
    # A decoder whose every parameter is stored elsewhere holds nothing of its own.
    assert holders - set(modules) <= {encoder.decoder}
    assert set(modules) <= holders
    assert sum(decision.parameters for decision in decisions) == total
    actions = {decision.module: decision.action for decision in decisions}
    assert actions[encoder.word_embeddings] == ("kept" if code == "full" else "coded")
    assert {actions[path] for path, _ in encoder.linears()} == {"binary"}
    rounded = {path for path, action in actions.items() if action == "rounded"}
    expected = {*encoder.embeddings_kept, encoder.pooler} - {None}
    assert rounded == (expected if kept_bits == 8 else set())


def test_kinds_of_what_is_kept(make_model, family):
    """Norms are told from heads, whatever class transformers has for them."""
    model = make_model(family)
    use_blocks(model)
    norms = {
        name
        for name, module in model.named_modules()
        if type(module).__name__.endswith(("Norm", "Affine")) and list(module.parameters())
    }
    _, decisions = swap(model, _recipe())
    kinds = {decision.module: decision.kind for decision in decisions}
    assert {path for path, kind in kinds.items() if kind == "layer_norm"} == norms
    heads = {path for path, kind in kinds.items() if kind == "head"}
    beside = {"xmod": "adapter_modules", "electra": "embeddings_project"}
    assert all(beside.get(family, "embedding") in path for path in heads)


def test_an_untied_decoder_is_counted_and_kept(make_model):
    model = make_model("bert", "ForMaskedLM", tie_word_embeddings=False)
    total = sum(parameter.numel() for parameter in model.parameters())
    _, decisions = swap(model, _recipe(embeddings={"code": "sign"}))
    assert sum(decision.parameters for decision in decisions) == total
    assert isinstance(model.cls.predictions.decoder, nn.Linear)


@pytest.mark.parametrize("code", CODES)
def test_embedding_codes_run_and_stay_tied(make_random_pair, family, code, batches):
    recipe = {"embeddings": {"code": code}}
    student, teacher, encoder, _, _ = make_random_pair(family, "ForMaskedLM", recipe)
    embedding = get_module(student, encoder.word_embeddings)
    assert type(embedding) is CODES[code]
    with torch.no_grad():
        out = student(batches[0])
    assert torch.isfinite(out[0]).all()
    assert out.logits.shape == (6, 9, 101)
    if encoder.decoder is None:
        assert family in ("rembert", "eurobert")
        untied = student.get_output_embeddings()
        assert torch.equal(untied.weight, teacher.get_output_embeddings().weight)
        return
    decoder = get_module(student, encoder.decoder)
    assert isinstance(decoder, TiedDecoder) == (code != "full")
    assert torch.equal(decoder.weight, embedding.weight)
    stored = [p for p in student.parameters() if p.shape == embedding.weight.shape]
    assert len(stored) == (0 if code == "frequency-aware" else 1)


@pytest.mark.parametrize("bits", [1, 4])
def test_padding_does_not_change_the_output(make_random_pair, family, bits, batches):
    recipe = {"activations": {"bits": bits}, "estimators": {"query": 2, "scores": 1, "context": 1}}
    student = make_random_pair(family, recipe=recipe).student
    ids = batches[0]
    padded = torch.full((len(ids) + 1, ids.shape[1] + 5), student.config.pad_token_id)
    padded[:-1, : ids.shape[1]] = ids
    padded[-1] = torch.arange(20, 20 + padded.shape[1])
    mask = torch.zeros_like(padded)
    mask[:-1, : ids.shape[1]] = 1
    mask[-1] = 1
    with torch.no_grad():
        alone = student(ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        together = student(padded, attention_mask=mask).last_hidden_state
        ignored = student(padded).last_hidden_state
    together, ignored = (x[:-1, : ids.shape[1]] for x in (together, ignored))
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert not torch.allclose(ignored, alone, atol=1e-3)  # the mask is what did it


def test_threads_that_share_a_model_do_not_disturb_each_other(make_random_pair, batches):
    """Estimators that heads share read hidden states: those of their own call."""
    recipe = {"estimators": {"scores": 1, "context": 1, "attention_reads": "hidden-states"}}
    student = make_random_pair("bert", recipe=recipe).student
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randint(5, 101, (2, n), generator=generator) for n in (5, 30)]

    def run(ids: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return student(ids).last_hidden_state

    alone = [run(ids) for ids in inputs]
    with ThreadPoolExecutor(2) as pool:
        for one, other in zip(*(pool.map(run, [ids] * 30) for ids in inputs), strict=True):
            torch.testing.assert_close(one, alone[0])
            torch.testing.assert_close(other, alone[1])


@pytest.mark.parametrize(
    ("kind", "rank", "largest"),
    [("query", 37, 36), ("ffn_up", 37, 36), ("scores", 13, 12), ("context", 13, 12)],
)
def test_a_rank_larger_than_its_layer_is_refused(make_model, kind, rank, largest):
    with pytest.raises(RecipeError, match=rf"estimators\.{kind} = {rank} .* {largest} or less"):
        swap(make_model("bert"), _recipe(estimators={kind: rank}))
    swap(make_model("bert"), _recipe(estimators={kind: largest}))


def test_recipe_choices_reach_the_modules(make_model):
    activations = {"bits": 4, "key_value_bits": 2, "clip": 1.5, "elastic": True}
    ranks = {"query": 1, "key": 2, "value": 3, "attention_output": 4, "ffn_up": 5, "ffn_down": 6}
    model = make_model("bert")
    estimators = ranks | {"scores": 2, "context": 0}
    encoder, _ = swap(model, _recipe(activations=activations, estimators=estimators))
    for path, linear in encoder.linears():
        layer = get_module(model, path)
        assert (layer.bits, layer.clip, layer.elastic) == (4, 1.5, True)
        assert layer.rank == ranks[linear.kind]
    for attention in (m for m in model.modules() if isinstance(m, BinaryAttention)):
        assert (attention.bits, attention.key_value_bits) == (4, 2)
        assert (attention.clip, attention.elastic) == (1.5, True)
        assert attention.score_estimator.rank == 2
        assert attention.context_estimator is None


@pytest.mark.parametrize("code", CODES)
def test_only_shapes_are_needed(make_model, family, code):
    """A model on the meta device stays there: a report costs no memory."""
    model = make_model(family, "ForMaskedLM").to("meta")
    swap(model, _recipe(embeddings={"code": code}, estimators={"query": 2, "scores": 1}))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


@pytest.mark.parametrize("hidden", [7, 35, 66])
def test_any_width(make_model, hidden):
    sizes = {"hidden_size": hidden, "num_attention_heads": 1, "intermediate_size": 3}
    model = make_model("bert", **sizes)
    encoder, _ = swap(model, _recipe(embeddings={"code": "frequency-aware"}))
    assert encoder.layers[0].spec.attention.head_dim == hidden
    with torch.no_grad():
        assert model(torch.arange(5, 12)[None]).last_hidden_state.shape == (1, 7, hidden)
