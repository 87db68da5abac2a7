"""Every class that transformers' Auto classes know for our families can be trained on."""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers.models.auto import modeling_auto

from bipft_compress import Recipe, checkpoint, jobs, load
from bipft_compress.families.table import FAMILIES
from bipft_compress.jobs.pretrain import pretrain
from bipft_compress.training.pretraining import pretrain_model

from ..conftest import SIZES

DECODERS = {"MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"}
"""What writes text word by word has no encoder's attention."""

RECIPE = {
    "initialisation": {"calibration_tokens": 300, "sequence_length": 24, "layer_epochs": 1},
    "text": {"unit": "sentences", "sequence_length": 24, "shortest": 3},
    "objective": {"hidden_states": 1.0},
    "training": {
        "per_device_train_batch_size": 4,
        "max_steps": 1,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
    },
}


def classes() -> list[tuple[str, str]]:
    """Model type and class, of every mapping of an Auto class."""
    listed: dict[tuple[str, str], None] = {}
    for mapping, names in vars(modeling_auto).items():
        of_models = mapping.startswith("MODEL_") and mapping.endswith("_MAPPING_NAMES")
        if not of_models or mapping in DECODERS:
            continue
        for model_type in FAMILIES:
            named = names.get(model_type, ())
            for name in [named] if isinstance(named, str) else named:
                if not name.endswith(("ForCausalLM", "LMHeadModel")):
                    listed[model_type, name] = None
    return sorted(listed)


CLASSES = classes()


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    lines = (f"{a}{b} {b}{c} {c} {a} d{b}." for a in "abcd" for b in "efgh" for c in "ijk")
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _head(model_type: str, name: str) -> str:
    return name.removeprefix(SIZES[model_type][0])


def test_every_family_has_heads_that_the_suite_knows():
    """So that none is left out without a word: the classes are those of transformers itself."""
    assert {model_type for model_type, _ in CLASSES} == set(SIZES) == set(FAMILIES)
    for kind in ("MultipleChoice", "QuestionAnswering", "TokenClassification", "PreTraining"):
        assert sum(name.endswith(kind) for _, name in CLASSES) > 3
    assert all(hasattr(transformers, name) for _, name in CLASSES)


@pytest.mark.parametrize(("model_type", "name"), CLASSES, ids=[name for _, name in CLASSES])
def test_it_trains(make_random_pair, tokenizer, text, tmp_path, model_type, name):
    pair = make_random_pair(model_type, _head(model_type, name))
    before = {key: weight.detach().clone() for key, weight in pair.student.named_parameters()}
    points = pretrain_model(
        pair.student, pair.teacher, tokenizer, text, Recipe.load(RECIPE), tmp_path / "work"
    )
    assert torch.isfinite(torch.tensor(points[-1]["loss"]))
    assert "hidden_states" in points[-1]["terms"]
    after = dict(pair.student.named_parameters())
    assert any(not torch.equal(after[key], weight) for key, weight in before.items())


MULTIPLE_CHOICE = [model_type for model_type, name in CLASSES if name.endswith("MultipleChoice")]


@pytest.mark.parametrize("model_type", ["bert", "albert", "modernbert"])
def test_multiple_choice_goes_through_every_job(make_checkpoint, text, tmp_path, model_type):
    """Compressed, trained, packed, and loaded by the class that reads several choices."""
    assert model_type in MULTIPLE_CHOICE
    original = make_checkpoint(model_type, "ForMultipleChoice")
    jobs.compress_checkpoint(original, Recipe.load(RECIPE), tmp_path / "binary", calibration=text)
    pretrain(tmp_path / "binary", text, tmp_path / "trained", steps=2)
    jobs.pack_checkpoint(tmp_path / "trained", tmp_path / "packed")
    trained, packed = (checkpoint.load(tmp_path / name)[0] for name in ("trained", "packed"))
    auto = transformers.AutoModelForMultipleChoice.from_pretrained(tmp_path / "packed")
    ids = torch.randint(5, 101, (2, 3, 14), generator=torch.Generator().manual_seed(11))
    with torch.no_grad():
        logits = [model(input_ids=ids).logits for model in (trained, packed, auto)]
    assert logits[0].shape == (2, 3)
    torch.testing.assert_close(logits[1], logits[0], atol=0.05, rtol=0)
    assert torch.equal(logits[2], logits[1])
    assert load(tmp_path / "packed")[2].training[-1]["step"] == 2
