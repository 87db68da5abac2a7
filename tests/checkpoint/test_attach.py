"""Through `from_pretrained` and `save_pretrained` of transformers checkpoints stay themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertModel,
)

from bipft_compress import checkpoint
from bipft_compress.checkpoint import load
from bipft_compress.checkpoint.record import RECORD, WEIGHTS, Record
from bipft_compress.errors import CheckpointError
from bipft_compress.recipe import Recipe
from bipft_compress.runtime.block import PackedBlock
from bipft_compress.runtime.native import chosen_path

from ..packing import EVERYTHING

AUTO = {
    "Model": AutoModel,
    "ForMaskedLM": AutoModelForMaskedLM,
    "ForSequenceClassification": AutoModelForSequenceClassification,
    "ForTokenClassification": AutoModelForTokenClassification,
}
RECIPES = {
    "default": {},
    "everything": EVERYTHING,
    "full": {"embeddings": {"code": "full"}, "kept": {"pooler": 16, "position_embeddings": 32}},
}


@pytest.fixture(scope="module")
def write_training(make_binary, tokenizer):
    """`write_training(directory, family, head, recipe)`: a training checkpoint; its model."""

    def write(directory, family="bert", head="Model", recipe=None):
        pair = make_binary(family, head, recipe)
        record = Record(recipe=Recipe.load(recipe or {}), teacher="teacher-dir")
        checkpoint.save(directory, pair.student, tokenizer, record)
        return pair.student

    return write


def _read(auto, directory):
    model, info = auto.from_pretrained(directory, output_loading_info=True)
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    return model, info["missing_keys"]


def _assert_same(one, other, batch):
    with torch.no_grad():
        ours, theirs = one(**batch), other(**batch)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name])


@pytest.mark.parametrize(
    ("head", "recipe"),
    [
        ("Model", "everything"),
        ("ForMaskedLM", "default"),
        ("ForMaskedLM", "full"),
        ("ForSequenceClassification", "default"),
    ],
)
@pytest.mark.parametrize("form", ["packed", "training"])
def test_auto_classes_load_what_load_does(
    write_packed, write_training, shape, head, form, recipe, padded, tmp_path
):
    directory, saved = tmp_path / form, tmp_path / "saved"
    write = write_packed if form == "packed" else write_training
    write(directory, shape, head, RECIPES[recipe])
    model, missing = _read(AUTO[head], directory)
    assert not missing
    ours, tokenizer, _ = load(directory)
    assert type(model) is type(ours)
    _assert_same(model, ours, padded)
    if form == "packed":
        paths = {module.path for module in model.modules() if isinstance(module, PackedBlock)}
        assert paths == {chosen_path()}
    for source in (model, ours):
        source.save_pretrained(saved)
        tokenizer.save_pretrained(saved)
        _assert_same(_read(AUTO[head], saved)[0], ours, padded)
        _assert_same(load(saved)[0], ours, padded)


OPTIONS = [
    {"device_map": "cpu"},
    {"device_map": "auto"},
    {"device_map": {"": "cpu"}},
    {"low_cpu_mem_usage": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("form", ["packed", "training"])
def test_devices_may_be_mapped(write_packed, write_training, padded, tmp_path, form, options):
    """On a CPU every map names the same; the kernels run, and weights are in memory once."""
    write = write_packed if form == "packed" else write_training
    write(tmp_path / form)
    plain = AutoModel.from_pretrained(tmp_path / form)
    model = AutoModel.from_pretrained(tmp_path / form, **options)
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cpu"}
    _assert_same(model, plain, padded)
    paths = [
        {part.path for part in one.modules() if isinstance(part, PackedBlock)}
        for one in (model, plain)
    ]
    assert paths[0] == paths[1]
    model.save_pretrained(tmp_path / "saved")
    _assert_same(AutoModel.from_pretrained(tmp_path / "saved"), plain, padded)


def test_every_family(write_packed, family, padded, tmp_path):
    write_packed(tmp_path / "packed", family)
    model, missing = _read(AutoModel, tmp_path / "packed")
    assert not missing
    _assert_same(model, load(tmp_path / "packed")[0], padded)


@pytest.fixture(scope="module")
def written(write_packed, tmp_path_factory):
    directory = tmp_path_factory.mktemp("auto") / "packed"
    write_packed(directory, "bert", "ForMaskedLM")
    return directory


def test_another_head(written, padded):
    """The encoder is the stored one, and transformers says which tensors it drew at random."""
    model, info = AutoModelForSequenceClassification.from_pretrained(
        written, num_labels=3, output_loading_info=True
    )
    fresh = {name for name, weight in model.named_parameters() if weight.requires_grad}
    expected = {"classifier.weight", "classifier.bias"}
    expected |= {f"bert.pooler.dense.{name}" for name in ("weight", "bias")}
    assert info["missing_keys"] == fresh == expected
    encoder, ours = model.bert.eval(), load(written)[0].bert
    with torch.no_grad():
        hidden = encoder(**padded).last_hidden_state
        assert torch.equal(hidden, ours(**padded).last_hidden_state)
    model(**padded, labels=torch.tensor([0, 1, 2])).loss.backward()
    assert model.classifier.weight.grad is not None


def test_transformers_alone_refuses(written, write_training, tmp_path):
    """Whatever we or `save_pretrained` wrote, and by the class of the model too."""
    write_training(tmp_path / "training")
    load(written)[0].save_pretrained(tmp_path / "saved")
    code = """
import sys
from transformers import AutoModel, BertModel
for directory in sys.argv[1:]:
    for chosen in (AutoModel, BertModel):
        try:
            chosen.from_pretrained(directory)
        except ValueError as error:
            assert "`import bipft_compress` before" in str(error), error
        else:
            raise AssertionError(directory)
assert "bipft_compress" not in sys.modules
"""
    names = [str(path) for path in (written, tmp_path / "training", tmp_path / "saved")]
    # Where this package is installed, torch imports it: see `plugin.autoload`.
    alone = os.environ | {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    subprocess.run([sys.executable, "-c", code, *names], check=True, env=alone)


@pytest.mark.parametrize("first", ["transformers", "bipft_compress"])
def test_the_order_of_imports_does_not_matter(written, first):
    code = f"""
import sys, {first}
from transformers import AutoModel
import bipft_compress
assert type(AutoModel.from_pretrained(sys.argv[1])).__name__ == "BertModel"
"""
    subprocess.run([sys.executable, "-c", code, str(written)], check=True)


def test_importing_this_package_imports_neither_torch_nor_transformers():
    heavy = "{'torch', 'transformers', 'peft'}"
    code = f"import sys, bipft_compress; assert not {heavy} & {{*sys.modules}}"
    subprocess.run([sys.executable, "-c", code], check=True)


def _flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda d: _flip(d / WEIGHTS, -1), "does not match its checksum"),
        (lambda d: _flip(d / "config.json", -3), "config.json"),
        (lambda d: (d / RECORD).unlink(), "is not a binary checkpoint"),
        (lambda d: _change(d, {"version": 3}), "newer release"),
    ],
)
@pytest.mark.parametrize("form", ["packed", "training"])
def test_checksums_are_verified(write_packed, write_training, form, damage, says, tmp_path):
    (write_packed if form == "packed" else write_training)(tmp_path / form)
    damage(tmp_path / form)
    with pytest.raises((CheckpointError, OSError), match=says):
        AutoModel.from_pretrained(tmp_path / form)


def _change(directory, values):
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] |= values
    path.write_text(json.dumps(config))


def test_a_saved_model_is_checked_too(written, tmp_path):
    load(written)[0].save_pretrained(tmp_path / "saved")
    _flip(tmp_path / "saved" / WEIGHTS, -1)
    for read in (load, AutoModelForMaskedLM.from_pretrained):
        with pytest.raises(CheckpointError, match="does not match its checksum"):
            read(tmp_path / "saved")


def test_other_types_are_computed_in_fp32(written):
    assert AutoModelForMaskedLM.from_pretrained(written, dtype=torch.float16).dtype == torch.float32


def test_a_changed_model_is_not_written(written, tmp_path):
    model = load(written)[0]
    model.bert.encoder.layer[0].block.attention.query = torch.nn.Linear(36, 36)
    with pytest.raises(CheckpointError, match=r"not as it was loaded \(.*query"):
        model.save_pretrained(tmp_path / "saved")


def test_a_full_precision_model_is_not_quantized_on_the_way(write_checkpoint, tmp_path):
    from bipft_compress.quantizer import BipftConfig

    write_checkpoint(tmp_path / "plain")
    with pytest.raises(ValueError, match="pre-quantized"):
        BertModel.from_pretrained(tmp_path / "plain", quantization_config=BipftConfig())
