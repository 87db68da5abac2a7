"""What sentence-transformers keeps around an encoder goes through compress, pretrain and pack."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from bipft_compress import checkpoint, jobs, loading, losses
from bipft_compress.checkpoint.identity import checkpoint_identity
from bipft_compress.errors import CheckpointError
from bipft_compress.families import describe, get_module
from bipft_compress.nn.pooling import mean_pool
from bipft_compress.recipe import Recipe
from bipft_compress.training.distillation import Distillation

LONGEST = 20
TEXT = "ab cd ef. gh ij kl mn op abc bcd cde. " * 40
QUICK = {"initialisation": {"calibration_tokens": 300}}


def write_sentence_files(directory, pooling="mean_tokens", width=36, dense=24, longest=LONGEST):
    """The files of sentence-transformers beside an encoder's: pooling, a dense layer, Normalize."""
    kinds = ["Transformer", "Pooling", *(["Dense"] if dense else []), "Normalize"]
    entries = [
        {
            "idx": number,
            "name": str(number),
            "path": f"{number}_{kind}" if number else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for number, kind in enumerate(kinds)
    ]
    (directory / "modules.json").write_text(json.dumps(entries))
    text = {"max_seq_length": longest, "do_lower_case": False}
    (directory / "sentence_bert_config.json").write_text(json.dumps(text))
    settings = {"prompts": {"query": "ab: "}, "similarity_fn_name": "dot"}
    (directory / "config_sentence_transformers.json").write_text(json.dumps(settings))
    (directory / "1_Pooling").mkdir()
    values = {"word_embedding_dimension": width, f"pooling_mode_{pooling}": True}
    (directory / "1_Pooling/config.json").write_text(json.dumps(values))
    if dense:
        (directory / "2_Dense").mkdir()
        values = {
            "in_features": width,
            "out_features": dense,
            "bias": True,
            "activation_function": "torch.nn.modules.linear.Identity",
        }
        (directory / "2_Dense/config.json").write_text(json.dumps(values))
        generator = torch.Generator().manual_seed(3)
        tensors = {
            "linear.weight": torch.randn(dense, width, generator=generator),
            "linear.bias": torch.randn(dense, generator=generator),
        }
        save_file(tensors, directory / "2_Dense/model.safetensors")


@pytest.fixture(scope="module")
def packed(write_checkpoint, tmp_path_factory):
    """A packed sentence-transformers checkpoint, its training one and its original, in a folder."""
    root = tmp_path_factory.mktemp("sentence")
    write_checkpoint(root / "original")
    write_sentence_files(root / "original")
    (root / "text.txt").write_text(TEXT)
    recipe = Recipe.load(QUICK)
    jobs.compress_checkpoint(
        root / "original", recipe, root / "binary", calibration=root / "text.txt"
    )
    jobs.pack_checkpoint(root / "binary", root / "packed")
    return root


def test_modules_prompts_and_lengths_are_kept(packed):
    original = loading.read_pipeline(packed / "original")
    for directory in ("binary", "packed"):
        model, tokenizer, record = checkpoint.load(packed / directory)
        kept = record.pipeline
        assert [module.kind.rpartition(".")[2] for module in kept.modules] == [
            "Pooling", "Dense", "Normalize",
        ]  # fmt: skip
        assert [m.values for m in kept.modules] == [m.values for m in original.modules]
        assert (kept.text, kept.settings) == (original.text, original.settings)
        assert tokenizer.model_max_length == LONGEST
        for name, tensor in original.modules[1].tensors.items():
            assert torch.equal(kept.modules[1].tensors[name], tensor.half().float())
        del model
    assert load_file(packed / "packed/2_Dense/model.safetensors")["linear.weight"].dtype == (
        torch.float16
    )


def test_what_no_module_reads_is_not_kept(packed):
    model, _, _ = checkpoint.load(packed / "packed")
    assert model.pooler is None
    assert model.config.max_position_embeddings == LONGEST
    table = get_module(model, "embeddings.position_embeddings")
    assert table.num_embeddings == LONGEST
    report = json.loads((packed / "packed/report.json").read_text())
    assert "pooler" not in report["memory"]["by_kind"]
    assert report["memory"]["full_precision_bytes"] == 4 * report["model"]["parameters"]
    names = [part["name"] for part in report["memory"]["parts"]]
    assert not any("pooler" in name or "fixed table" in name for name in names)


def test_a_recipe_can_keep_it(packed, tmp_path):
    recipe = Recipe.load(QUICK | {"kept": {"unused": True}})
    text = packed / "text.txt"
    jobs.compress_checkpoint(packed / "original", recipe, tmp_path / "binary", calibration=text)
    model, _, _ = checkpoint.load(tmp_path / "binary")
    assert describe(model).pooler is not None
    assert model.config.max_position_embeddings == 40


@pytest.mark.parametrize("model_type", ["roberta", "mpnet", "distilbert", "deberta-v2", "roformer"])
def test_short_sequences_come_out_the_same(write_checkpoint, model_type, tmp_path):
    from bipft_compress.structure.unused import without_unused

    write_checkpoint(tmp_path, model_type)
    model, _ = loading.load_pretrained(tmp_path)
    ids = torch.randint(5, 101, (3, LONGEST), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = model(ids)[0]
        shorter = without_unused(model, LONGEST)
        assert torch.equal(shorter(ids)[0], before)
    if model_type != "deberta-v2":
        assert shorter.config.max_position_embeddings < 40
        if model_type != "roformer":
            with pytest.raises((IndexError, RuntimeError)):
                shorter(ids[:, :1].expand(1, LONGEST + 1))


def test_a_readout_corrects_what_is_pooled(tmp_path):
    for pooling, first in (("cls_token", True), ("mean_tokens", False), ("max_tokens", False)):
        (tmp_path / pooling).mkdir()
        write_sentence_files(tmp_path / pooling, pooling)
        assert loading.read_pipeline(tmp_path / pooling).first_token is first
    values = {"embedding_dimension": 36, "pooling_mode": "cls", "include_prompt": True}
    (tmp_path / "max_tokens/1_Pooling/config.json").write_text(json.dumps(values))
    assert loading.read_pipeline(tmp_path / "max_tokens").first_token


FAULTS = {
    "other code": (
        lambda entries: entries[1].update(type="modeling_mine.Pooling"),
        "could run code",
    ),
    "elsewhere": (lambda entries: entries[1].update(path="../1_Pooling"), "lies elsewhere"),
    "no encoder": (lambda entries: entries.pop(0), "begins with"),
    "no list": (lambda entries: entries.clear(), "no list of modules"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_kept_is_refused(fault, tmp_path):
    change, words = FAULTS[fault]
    write_sentence_files(tmp_path)
    entries = json.loads((tmp_path / "modules.json").read_text())
    change(entries)
    (tmp_path / "modules.json").write_text(json.dumps(entries))
    with pytest.raises(CheckpointError, match=words):
        loading.read_pipeline(tmp_path)


def _nest(directory):
    """Move the encoder's files to where old releases of the library put them."""
    inner = directory / "0_Transformer"
    inner.mkdir()
    for path in list(directory.iterdir()):
        if path.is_file() and path.name not in (
            "modules.json", "config_sentence_transformers.json",
        ):  # fmt: skip
            path.rename(inner / path.name)
    entries = json.loads((directory / "modules.json").read_text())
    entries[0]["path"] = "0_Transformer"
    (directory / "modules.json").write_text(json.dumps(entries))


def test_an_encoder_in_a_directory_of_its_own(packed, publish, tmp_path):
    """Read here, from the hub, counted and packed as where it lies beside modules.json."""
    nested = tmp_path / "nested"
    shutil.copytree(packed / "original", nested)
    _nest(nested)
    publish(nested, "owner/nested", "v1")
    flat, flat_tokenizer = loading.load_pretrained(packed / "original")
    for source in (nested, "owner/nested@v1"):
        model, tokenizer = loading.load_pretrained(source)
        for name, tensor in flat.state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor)
        assert tokenizer.get_vocab() == flat_tokenizer.get_vocab()
        pipeline = loading.read_pipeline(source)
        assert pipeline.max_length == LONGEST
        report = jobs.report_config(source, Recipe.load(QUICK), tmp_path / "report", overwrite=True)
        assert report.model.parameters > pipeline.parameters > 0
    names = checkpoint_identity(nested)
    assert {"0_Transformer/model.safetensors", "2_Dense/model.safetensors"} <= names.keys()
    assert len(checkpoint_identity("owner/nested@v1")["commit"]) == 40
    binary = tmp_path / "binary"
    jobs.compress_checkpoint(nested, Recipe.load(QUICK), binary, calibration=packed / "text.txt")
    jobs.pack_checkpoint(binary, tmp_path / "packed")
    for name in ("model.safetensors", "2_Dense/model.safetensors", "modules.json"):
        assert (tmp_path / "packed" / name).read_bytes() == (packed / "packed" / name).read_bytes()


def test_dense_layers_count(packed, tmp_path):
    """36 numbers to 24, with a bias: 4 bytes a number before, 2 as stored; products once a text."""
    numbers = 36 * 24 + 24
    report = jobs.report_checkpoint(packed / "packed", tmp_path / "report", batch=3)
    (dense,) = [part for part in report.memory.parts if part.name == "2_Dense"]
    assert (dense.full_precision_bytes, dense.compressed_bytes) == (4 * numbers, 2 * numbers)
    (product,) = [part for part in report.operations.parts if part.name == "2_Dense"]
    assert product.macs == 3 * 36 * 24
    assert product.full_precision == product.compressed == 2 * product.macs
    (bias,) = [part for part in report.operations.parts if part.name == "2_Dense (bias)"]
    assert bias.compressed == 3 * 24
    _, _, record = checkpoint.load(packed / "packed")
    assert record.pipeline.parameters == numbers
    size = jobs.pack_checkpoint(packed / "binary", tmp_path / "packed")
    assert size.full_precision_bytes == report.memory.full_precision_bytes


POOLED = {
    "mean_tokens": lambda hidden: hidden.mean(0),
    "cls_token": lambda hidden: hidden[0],
    "max_tokens": lambda hidden: hidden.amax(0),
    "mean_sqrt_len_tokens": lambda hidden: hidden.sum(0) / len(hidden) ** 0.5,
    "weightedmean_tokens": lambda hidden: (
        torch.arange(1.0, len(hidden) + 1) @ hidden / sum(range(1, len(hidden) + 1))
    ),
    "lasttoken": lambda hidden: hidden[-1],
}


@pytest.mark.parametrize("pooling", POOLED)
def test_poolings_are_those_of_the_library(pooling, tmp_path):
    """Of the real tokens alone, on whichever side the others are."""
    write_sentence_files(tmp_path, pooling, dense=0)
    pool = loading.read_pipeline(tmp_path).pool(tmp_path)
    hidden = torch.randn(3, 5, 36, generator=torch.Generator().manual_seed(4))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 1, 1, 1]])
    vectors = pool(hidden, mask)
    for row, real in enumerate(mask.bool()):
        torch.testing.assert_close(vectors[row], POOLED[pooling](hidden[row, real]))


def test_several_poolings_are_joined_and_unknown_ones_refused(tmp_path):
    write_sentence_files(tmp_path, dense=0)
    path = tmp_path / "1_Pooling/config.json"
    path.write_text(json.dumps({"pooling_mode": ["cls", "mean_sqrt_len_tokens"]}))
    hidden = torch.randn(2, 4, 36)
    vectors = loading.read_pipeline(tmp_path).pool(tmp_path)(hidden, torch.ones(2, 4))
    torch.testing.assert_close(vectors, torch.cat([hidden[:, 0], hidden.sum(1) / 2], 1))
    path.write_text(json.dumps({"pooling_mode": "attention"}))
    with pytest.raises(CheckpointError, match="pools by attention, which is not known here"):
        loading.read_pipeline(tmp_path).pool(tmp_path)


@pytest.mark.parametrize("residual", [None, "same width", "other width"])
@pytest.mark.parametrize("activation", ["Tanh", "Identity", "GELU"])
def test_dense_layers_are_those_of_the_library(activation, residual, tmp_path):
    library = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    width = 36 if residual == "same width" else 24
    write_sentence_files(tmp_path)
    shutil.rmtree(tmp_path / "2_Dense")
    dense = library.Dense(
        36, width, activation_function=getattr(torch.nn, activation)(), use_residual=bool(residual)
    )
    (tmp_path / "2_Dense").mkdir()
    dense.save(str(tmp_path / "2_Dense"))
    hidden, mask = torch.randn(3, 5, 36), torch.tensor([[1] * 5, [1, 1, 0, 0, 0], [0, 0, 1, 1, 1]])
    vectors = loading.read_pipeline(tmp_path).pool(tmp_path)(hidden, mask)
    wanted = dense({"sentence_embedding": mean_pool(hidden, mask)})["sentence_embedding"]
    torch.testing.assert_close(vectors, wanted)


def test_dense_layers_that_are_not_known_are_refused(tmp_path):
    write_sentence_files(tmp_path)
    path = tmp_path / "2_Dense/config.json"
    for named in ("os.system", "torch.nn.NoSuchThing", "torch.nn.functional", "torch.nn.Linear"):
        path.write_text(json.dumps({"activation_function": named}))
        with pytest.raises(CheckpointError, match=f"a dense layer with {named} behind the encoder"):
            loading.read_pipeline(tmp_path).pool(tmp_path)
    listed = (tmp_path / "modules.json").read_text()
    (tmp_path / "modules.json").write_text(listed.replace("models.Dense", "models.LayerNorm"))
    with pytest.raises(CheckpointError, match="a module LayerNorm behind the encoder"):
        loading.read_pipeline(tmp_path).pool(tmp_path)


def test_sentence_terms_pool_as_the_checkpoint_says(write_checkpoint, tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "original")
    write_sentence_files(tmp_path / "original", "cls_token", dense=0)
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    recipe = Recipe.load(
        {**QUICK, "objective": {"sentence_cosine": 1.0}, "text": {"sequence_length": 16},
         "training": {"per_device_train_batch_size": 2, "logging_steps": 1}}
    )  # fmt: skip
    jobs.compress_checkpoint(tmp_path / "original", recipe, tmp_path / "binary", calibration=text)
    seen = []

    def record(self, student_outputs, teacher_outputs, mask):
        terms = distil(self, student_outputs, teacher_outputs, mask)
        first = [outputs[-1][:, 0] for outputs in (student_outputs, teacher_outputs)]
        seen.append(
            (
                float(terms["sentence_cosine"].detach()),
                float(losses.sentence_cosine(*first).detach()),
            )
        )
        return terms

    distil = Distillation._encoder_terms
    monkeypatch.setattr(Distillation, "_encoder_terms", record)
    jobs.pretrain(tmp_path / "binary", text, tmp_path / "better", steps=1)
    assert seen
    for term, of_first in seen:
        assert term == pytest.approx(of_first, abs=1e-6)


def test_evaluate_pools_as_the_checkpoint_says(write_checkpoint, tmp_path):
    """By the first token, the scores are those of its vectors, and not of the mean's."""
    write_checkpoint(tmp_path / "original")
    write_sentence_files(tmp_path / "original", "cls_token", dense=0)
    (tmp_path / "text.txt").write_text(TEXT)
    jobs.compress_checkpoint(
        tmp_path / "original", Recipe.load(QUICK), tmp_path / "binary",
        calibration=tmp_path / "text.txt",
    )  # fmt: skip
    first, second = ["ab cd", "ef", "gh ij kl", "mn"], ["cd", "ef ab cd", "gh", "op ab"]
    rows = [f"{a}\t{b}\t{score}\n" for a, b, score in zip(first, second, (1, 4, 2, 3), strict=True)]
    (tmp_path / "pairs.tsv").write_text("sentence1\tsentence2\tscore\n" + "".join(rows))
    figures = jobs.evaluate_sts(tmp_path / "binary", tmp_path / "pairs.tsv")
    likeness = []
    models = [loading.load_pretrained(tmp_path / "original")[0]]
    student, tokenizer, _ = checkpoint.load(tmp_path / "binary")
    models.append(student)
    with torch.no_grad():
        for text in first:
            inputs = tokenizer(text, return_tensors="pt")
            vectors = [model(**inputs).last_hidden_state[0, 0] for model in models]
            likeness.append(torch.cosine_similarity(*vectors, dim=0))
    assert figures["similarity_to_original"] == pytest.approx(float(sum(likeness) / 4), abs=1e-5)
