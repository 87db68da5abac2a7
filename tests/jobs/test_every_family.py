"""Every family through every job: compressed, trained, packed, run, measured, reported."""

from __future__ import annotations

import pytest
import torch

from bipft_compress import Recipe, jobs, load
from bipft_compress.benchmarking.run import Setting
from bipft_compress.jobs.pretrain import pretrain

RECIPE = {
    "initialisation": {"calibration_tokens": 300, "sequence_length": 24, "layer_epochs": 1},
    "estimators": {"attention_output": 1},
    "text": {"unit": "sentences", "sequence_length": 24, "shortest": 3},
    "objective": {"hidden_states": 1.0, "sentence_cosine": 1.0, "attention_scores": 0.1},
    "training": {"per_device_train_batch_size": 4, "max_steps": 1, "logging_steps": 1},
}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    lines = (
        f"{a}{b} {b}{c} {c} {a} d{b} {c}{a} a{c} {b}."
        for a in "abcd"
        for b in "efgh"
        for c in "ijklmn"
    )
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_every_job(family, make_checkpoint, text, tmp_path):
    original = make_checkpoint(family)
    recipe = Recipe.load(RECIPE)
    record = jobs.compress_checkpoint(original, recipe, tmp_path / "binary", calibration=text)
    assert all(0 < error < 2 for error in record.layer_errors)
    pretrain(tmp_path / "binary", text, tmp_path / "trained")
    jobs.pack_checkpoint(tmp_path / "trained", tmp_path / "packed")
    trained, _, _ = load(tmp_path / "trained")
    packed, _, _ = load(tmp_path / "packed")

    ids = torch.randint(5, 101, (3, 14), generator=torch.Generator().manual_seed(11))
    real = torch.arange(14) < torch.tensor([[9], [14], [3]])
    padded = {"input_ids": torch.where(real, ids, 1), "attention_mask": real.long()}

    # Packed equals the training form, but for signs that rounding turns at a threshold.
    with torch.no_grad():
        expected, hidden = (model(**padded).last_hidden_state for model in (trained, packed))
        # A sequence alone.
        alone = packed(input_ids=ids[2:, :3]).last_hidden_state
    apart = (expected - hidden)[real].abs().amax(-1) > 1e-3
    assert apart.float().mean() < 0.2
    # Padding never leaks: alone it is what it is among longer ones. MobileBERT's embeddings read
    # the next token, whatever it is, so there the last real one sees padding in the original too.
    if family != "mobilebert":
        assert torch.equal(alone[0], hidden[2, :3])

    measured = jobs.benchmark_artefact(tmp_path / "packed", setting=Setting(1, 8, 1, 2))
    assert measured.systems
    report = jobs.report_checkpoint(tmp_path / "packed", tmp_path / "report")
    assert report.memory.full_precision_bytes == 4 * sum(
        weight.numel() for weight in _original(original).parameters()
    )
    assert report.operations.compressed < report.operations.full_precision


def _original(directory):
    from transformers import AutoModel

    return AutoModel.from_pretrained(directory)
