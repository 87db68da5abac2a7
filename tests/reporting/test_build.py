import copy

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertForPreTraining,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    RobertaConfig,
)

from bipft_compress.errors import RecipeError, UnsupportedModelError, UserError
from bipft_compress.recipe import Recipe
from bipft_compress.reporting import RunFacts, build_report, report_from_config
from bipft_compress.structure.pooling import choose_pooling
from bipft_compress.structure.swap import swap

FAMILIES = {
    "roberta": RobertaConfig(
        hidden_size=24, num_attention_heads=2, num_hidden_layers=2, intermediate_size=40,
        vocab_size=60, max_position_embeddings=20,
    ),
    "distilbert": DistilBertConfig(
        dim=24, n_heads=2, n_layers=2, hidden_dim=40, vocab_size=60, max_position_embeddings=20
    ),
    "electra": ElectraConfig(
        hidden_size=24, embedding_size=16, num_attention_heads=2, num_hidden_layers=2,
        intermediate_size=40, vocab_size=60, max_position_embeddings=20,
    ),
}  # fmt: skip


def same_counts(left, right):
    assert left.operations == right.operations
    assert left.memory == right.memory
    assert left.papers_convention == right.papers_convention
    assert left.swapped == right.swapped


def test_model_and_configuration_agree_and_neither_changes(tiny_config, tiny_model):
    before = copy.deepcopy(tiny_model.state_dict())
    settings = tiny_config.to_dict()
    of_model = build_report(tiny_model, Recipe(), sequence_length=7)
    same_counts(of_model, report_from_config(tiny_config, Recipe(), sequence_length=7))
    same_counts(of_model, build_report(tiny_config, Recipe(), sequence_length=7))
    after = tiny_model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert tiny_config.to_dict() == settings
    assert tiny_model.config._attn_implementation != "bipft_binary"
    assert not any(module._forward_hooks for module in tiny_model.modules())


def test_binary_model_is_counted_as_it_is(tiny_model):
    recipe = Recipe().with_rank(2)
    expected = build_report(tiny_model, recipe, sequence_length=7)
    swap(tiny_model, recipe)
    same_counts(build_report(tiny_model, recipe, sequence_length=7), expected)
    other = build_report(tiny_model, Recipe().with_rank(0), sequence_length=7)
    assert other.operations == expected.operations


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "auto",
    [
        AutoModelForMaskedLM,
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
        AutoModelForMultipleChoice,
    ],
)
def test_families_and_heads(family, auto):
    model = auto.from_config(copy.deepcopy(FAMILIES[family]))
    report = build_report(model, Recipe(), batch=3, sequence_length=5)
    numbers = sum(parameter.numel() for parameter in model.parameters())
    assert report.memory.full_precision_bytes == 4 * numbers
    head = sum(part.macs for part in report.operations.parts if part.kind == "head")
    assert head > 0
    # Every head here but a sequence's reads every token.
    per_token = auto in (AutoModelForMaskedLM, AutoModelForTokenClassification)
    assert head % (3 * 5 if per_token else 3) == 0
    if auto is AutoModelForMaskedLM:
        width = getattr(model.config, "embedding_size", 24)
        decoder = 15 * 60 * width
        assert any(
            part.macs == decoder and part.compressed == 2 * decoder
            for part in report.operations.parts
        )


def test_a_head_that_reads_the_mean_costs_no_more_products(tiny_config):
    first, mean = BertForSequenceClassification(tiny_config), copy.deepcopy(tiny_config)
    choose_pooling(mean, "mean")
    expected = build_report(first, Recipe(), sequence_length=7).operations
    of_mean = build_report(BertForSequenceClassification(mean), Recipe(), sequence_length=7)
    assert of_mean.operations == expected


def test_a_model_that_does_not_run_on_token_ids_alone(tiny_config):
    class Strange(BertModel):
        def forward(self, input_ids, boxes):
            return super().forward(input_ids)

    with pytest.raises(UnsupportedModelError, match=r"Strange does not run .*'boxes'"):
        build_report(Strange(tiny_config), Recipe(), sequence_length=7)


def test_projected_embeddings_stay_in_full_precision():
    report = report_from_config(FAMILIES["electra"], Recipe(), batch=3, sequence_length=5)
    part = next(p for p in report.operations.parts if p.name == "embeddings_project")
    assert part.macs == 15 * 16 * 24
    assert part.full_precision == part.compressed == 2 * part.macs
    assert part.kind == "embeddings"
    assert "pooler" not in report.operations.by_kind


def test_sequence_and_token_heads_of_one_model(tiny_config):
    report = build_report(BertForPreTraining(tiny_config), Recipe(), batch=2, sequence_length=7)
    macs = {part.name: part.macs for part in report.operations.parts if part.macs}
    assert macs["cls.predictions.transform.dense"] == 14 * 36 * 36
    assert macs["cls.predictions.decoder"] == 14 * 36 * 101
    assert macs["cls.seq_relationship"] == 2 * 36 * 2
    assert macs["bert.pooler.dense"] == 2 * 36 * 36


def test_without_pooler(tiny_config):
    model = BertModel(tiny_config, add_pooling_layer=False)
    report = build_report(model, Recipe(), sequence_length=7)
    assert "pooler" not in report.operations.by_kind
    assert "pooler" not in report.memory.by_kind


def test_facts_of_the_model_and_of_the_run(tiny_config, run_facts):
    report = report_from_config(tiny_config, Recipe(), batch=2, sequence_length=7, run=run_facts)
    model = report.model
    assert (model.type, model.layers, model.hidden_size, model.heads) == ("bert", 2, 36, 3)
    assert (model.vocabulary, model.intermediate_size, model.head_dim) == (101, 50, 12)
    assert model.checkpoint == run_facts.checkpoint
    assert report.recipe == Recipe().model_dump(mode="json")
    assert report.quality == run_facts.quality
    assert report.training == run_facts.training
    assert {entry.action for entry in report.swapped} == {"binary", "coded", "rounded", "kept"}
    plain = report_from_config(tiny_config, Recipe(), sequence_length=7)
    assert plain.provenance["report"]["torch_version"] == torch.__version__
    decided = RunFacts(swapped=report.swapped[:1])
    assert (
        build_report(tiny_config, Recipe(), sequence_length=7, run=decided).swapped
        == (report.swapped[:1])
    )


@pytest.mark.parametrize("size", [{"batch": 0}, {"sequence_length": 0}, {"sequence_length": 17}])
def test_sizes_that_make_no_sense(tiny_config, size):
    with pytest.raises(UserError, match="sequence_length"):
        report_from_config(tiny_config, Recipe(), **{"sequence_length": 7, **size})


@pytest.mark.parametrize(("family", "longest"), [("roberta", 18), ("distilbert", 20)])
def test_the_longest_sequence_is_the_one_that_the_model_runs(family, longest):
    """RoBERTa's positions begin after the padding index: 20 of them serve 18 tokens."""
    config = FAMILIES[family]
    assert report_from_config(config, Recipe(), sequence_length=longest).sequence_length == longest
    with pytest.raises(UserError, match=f"{longest + 1} is more than the {longest} tokens"):
        report_from_config(config, Recipe(), sequence_length=longest + 1)


def test_shared_layers(make_model):
    report = build_report(make_model("albert"), Recipe(), sequence_length=7)
    assert (report.model.layers, report.model.stored_layers) == (4, 2)


def test_models_and_recipes_that_do_not_fit(tiny_config):
    with pytest.raises(UnsupportedModelError, match="gpt2"):
        report_from_config(GPT2Config(), Recipe())
    with pytest.raises(RecipeError, match="37"):
        report_from_config(tiny_config, Recipe().with_rank(37), sequence_length=7)
