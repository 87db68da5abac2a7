"""Full-precision checkpoints: each way to store them, and a sentence for what is wrong."""

from __future__ import annotations

import json
import logging
import re

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GPT2Config, GPT2Model

from bipft_compress import loading
from bipft_compress.checkpoint.record import WEIGHTS
from bipft_compress.errors import CheckpointError, UnsupportedModelError, UserError
from bipft_compress.families import describe, use_blocks
from bipft_compress.recipe import Recipe
from bipft_compress.reporting import build_report

INDEX = "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"
IDS = torch.tensor([[0, 7, 30, 99, 2]])


@torch.no_grad()
def _output(model):
    return model(IDS)[0]


def _edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def _rewrite(directory, change):
    state = load_file(directory / WEIGHTS)
    state = change(state) or state
    save_file(state, directory / WEIGHTS, metadata={"format": "pt"})


def _as_pickle(directory, name=PICKLE):
    torch.save(load_file(directory / WEIGHTS), directory / name)
    (directory / WEIGHTS).unlink()


@pytest.mark.parametrize("head", ["Model", "ForMaskedLM", "ForTokenClassification"])
def test_full_precision_loads_in_its_own_class(write_checkpoint, family, head, tmp_path):
    original = write_checkpoint(tmp_path, family, head)
    model, tokenizer = loading.load_pretrained(tmp_path)
    assert type(model) is type(original)
    assert torch.equal(_output(model), _output(original))
    assert len(tokenizer) == 101
    assert model.config._attn_implementation == "eager"
    assert not model.training


def test_a_fresh_mlm_head_is_tied(write_checkpoint, family, tmp_path):
    original = write_checkpoint(tmp_path, family)
    if family == "splinter":
        with pytest.raises(UnsupportedModelError, match=r"masked language model .*fresh_mlm_head"):
            loading.load_pretrained(tmp_path, mlm_head=True)
        return
    model, _ = loading.load_pretrained(tmp_path, mlm_head=True)
    table = original.get_input_embeddings().weight
    assert torch.equal(model.get_input_embeddings().weight, table)
    if family == "rembert":  # its output embeddings have another width
        assert describe(model).decoder is None
    else:
        assert model.get_submodule(describe(model).decoder).weight is (
            model.get_input_embeddings().weight
        )


def test_an_mlm_head_of_its_own_stays_untied(write_checkpoint, tmp_path):
    original = write_checkpoint(tmp_path, "eurobert", "ForMaskedLM")
    model, _ = loading.load_pretrained(tmp_path, mlm_head=True)
    assert torch.equal(model.lm_head.weight, original.lm_head.weight)
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


@pytest.mark.parametrize("stored", ["safetensors", "pickle"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_of_numbers_become_fp32(write_checkpoint, dtype, stored, tmp_path):
    original = write_checkpoint(tmp_path, "bert", "ForMaskedLM")
    original.to(dtype).save_pretrained(tmp_path)
    assert load_file(tmp_path / WEIGHTS)["bert.embeddings.LayerNorm.weight"].dtype is dtype
    if stored == "pickle":
        _as_pickle(tmp_path)
    model, _ = loading.load_pretrained(tmp_path)
    theirs = original.state_dict()
    for name, tensor in model.state_dict().items():
        assert tensor.dtype is torch.float32
        assert torch.equal(tensor, theirs[name].float())


def test_names_of_the_first_bert_are_taken(write_checkpoint, tmp_path):
    """Its LayerNorms had a gamma and a beta."""
    original = write_checkpoint(tmp_path, "bert", "ForPreTraining")

    def rename(state):
        new = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            ): tensor
            for name, tensor in state.items()
        }
        assert len(new.keys() - state.keys()) == 12
        return new

    _rewrite(tmp_path, rename)
    model, _ = loading.load_pretrained(tmp_path)
    theirs = original.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, theirs[name])


def test_every_tensor_of_the_encoder_must_be_there(write_checkpoint, family, tmp_path):
    original = write_checkpoint(tmp_path, family)
    state = load_file(tmp_path / WEIGHTS)
    frozen = {name for name, weight in original.named_parameters() if not weight.requires_grad}
    # One of each kind: layers are alike.
    kinds = {re.sub(r"\d+", "", name): name for name in state}
    for name in kinds.values():
        save_file(
            {other: tensor for other, tensor in state.items() if other != name},
            tmp_path / WEIGHTS,
            metadata={"format": "pt"},
        )
        if name.startswith("pooler.") or name in frozen:
            loading.load_pretrained(tmp_path)
            continue
        with pytest.raises(CheckpointError) as error:
            loading.load_pretrained(tmp_path)
        # NomicBERT's names in files are others.
        expected = name if name in original.state_dict() else ""
        assert re.search(rf"lack \d tensors of the encoder, such as {expected}", str(error.value))


@pytest.mark.parametrize("family", ["bert", "electra", "modernbert"])
def test_a_head_without_weights_is_left_out(write_checkpoint, make_model, family, tmp_path, caplog):
    """Embedding models often name the class that they were trained from."""
    original = write_checkpoint(tmp_path, family)
    head = type(make_model(family, "ForTokenClassification")).__name__
    _edit(tmp_path / "config.json", architectures=[head])
    with caplog.at_level(logging.INFO, "bipft_compress"):
        model, _ = loading.load_pretrained(tmp_path)
    assert type(model) is type(original)
    assert f"names {head} and has no weights of its head" in caplog.text
    for name, weight in original.named_parameters():
        assert torch.equal(model.get_parameter(name), weight)


def test_a_head_that_lacks_a_weight_is_told(write_checkpoint, tmp_path, caplog):
    write_checkpoint(tmp_path, "bert", "ForTokenClassification")
    state = load_file(tmp_path / "model.safetensors")
    del state["classifier.bias"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with caplog.at_level(logging.WARNING, "bipft_compress"):
        loading.load_pretrained(tmp_path)
    assert "start afresh: classifier.bias" in caplog.text


def test_no_adapter_is_read(write_checkpoint, tmp_path):
    original = write_checkpoint(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "elsewhere"}')
    model, _ = loading.load_pretrained(tmp_path)
    assert torch.equal(_output(model), _output(original))


ENCODER_TENSOR = "encoder.layer.1.output.dense.weight"


def _truncate(directory):
    (directory / WEIGHTS).write_bytes((directory / WEIGHTS).read_bytes()[:-100])


def _no_tokenizer(directory):
    for path in directory.glob("tokenizer*"):
        path.unlink()


FAULTS = {
    "truncated": (_truncate, "truncated or damaged"),
    "no weights": (lambda d: (d / WEIGHTS).unlink(), "holds no weights"),
    "other shape": (
        lambda d: _rewrite(d, lambda s: s.update({ENCODER_TENSOR: torch.zeros(3, 3)})),
        "cannot be loaded",
    ),
    "quantized": (
        lambda d: _edit(d / "config.json", quantization_config={"quant_method": "gptq"}),
        "weights are quantized",
    ),
    "no config": (lambda d: (d / "config.json").unlink(), "no config.json"),
    "no tokenizer": (_no_tokenizer, "has no tokenizer"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_full_precision_checkpoint_is_refused(write_checkpoint, tmp_path, fault):
    write_checkpoint(tmp_path)
    damage, says = FAULTS[fault]
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=says) as error:
        loading.load_pretrained(tmp_path)
    assert str(error.value).endswith(".")


def test_other_architectures_are_refused(tmp_path):
    config = GPT2Config(n_embd=12, n_layer=1, n_head=2, vocab_size=20, n_positions=8)
    GPT2Model(config).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(UnsupportedModelError, match="gpt2"):
        loading.load_pretrained(tmp_path / "gpt2")


def test_a_programming_error_is_not_a_fault_of_the_checkpoint(
    write_checkpoint, tmp_path, monkeypatch
):
    write_checkpoint(tmp_path)

    def broken(*_, **__):
        raise AttributeError("a typing mistake")

    monkeypatch.setattr(transformers.BertModel, "from_pretrained", broken)
    with pytest.raises(AttributeError, match="a typing mistake"):
        loading.load_pretrained(tmp_path)
    monkeypatch.undo()

    # Attributes can be missing because of what a tokenizer's files hold; names cannot.
    def misspelt(*_, **__):
        raise NameError("a typing mistake")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", misspelt)
    with pytest.raises(NameError, match="a typing mistake"):
        loading.load_tokenizer(tmp_path)


def test_a_checkpoint_without_a_pooler_is_read_without_one(write_checkpoint, tmp_path, caplog):
    write_checkpoint(tmp_path)
    _rewrite(tmp_path, lambda s: {name: t for name, t in s.items() if "pooler" not in name})
    with caplog.at_level(logging.INFO, "bipft_compress"):
        model, _ = loading.load_pretrained(tmp_path)
    assert model.pooler is None
    assert "no weights of a pooler" in caplog.text
    # What is made of its configuration has none either, and no report counts one.
    assert describe(loading.model_from_config(model.config)).pooler is None
    report = build_report(model, Recipe(), sequence_length=40)
    assert "pooler" not in report.memory.by_kind
    assert report.model.parameters == sum(weight.numel() for weight in model.parameters())


def test_a_head_without_its_pooler_is_told(write_checkpoint, tmp_path, caplog):
    write_checkpoint(tmp_path, "bert", "ForSequenceClassification")
    _rewrite(tmp_path, lambda s: {name: t for name, t in s.items() if "pooler" not in name})
    with caplog.at_level(logging.WARNING, "bipft_compress"):
        model, _ = loading.load_pretrained(tmp_path)
    assert model.bert.pooler is not None
    assert "no weights of its pooler, which starts afresh" in caplog.text


def test_a_tokenizer_fits_its_model(write_checkpoint, tmp_path):
    """It gives no input that the model does not take, and no sequence beyond its positions."""
    write_checkpoint(tmp_path, "distilbert")
    values = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
    _edit(tmp_path / "tokenizer_config.json", **values, model_max_length=10_000)
    model, tokenizer = loading.load_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for one in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        inputs = one("ab cd " * 100, truncation=True, return_tensors="pt")
        assert set(inputs) == {"input_ids", "attention_mask"}
        assert inputs["input_ids"].shape == (1, 40)
        model(**inputs)


def test_positions_after_the_padding_are_counted(write_checkpoint, tmp_path):
    write_checkpoint(tmp_path, "roberta")
    _edit(tmp_path / "tokenizer_config.json", model_max_length=40)
    model, tokenizer = loading.load_pretrained(tmp_path)
    ids = tokenizer("ab cd " * 100, truncation=True, return_tensors="pt")["input_ids"]
    assert ids.shape == (1, 38)
    model(ids)
    use_blocks(model)
    padded = torch.nn.functional.pad(ids, (0, 2), value=1)
    assert torch.allclose(model(padded, padded != 1)[0][:, :38], model(ids)[0], atol=1e-5)
    with pytest.raises(UserError, match=r"has 39 tokens.* positions for 38.*max_length=38"):
        model(torch.full((1, 39), 7))


def test_words_without_embeddings_are_refused(write_checkpoint, tmp_path):
    write_checkpoint(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.add_tokens(["quux"])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"has 102 entries.* 101.*resize_token_embeddings"):
        loading.load_pretrained(tmp_path)
