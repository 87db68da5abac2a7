"""Binary checkpoints of the hub are read by name, at the revision that is named."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModel

from bipft_compress.checkpoint import load
from bipft_compress.errors import CheckpointError
from bipft_compress.training.finetuned import read_classifier

IDS = torch.tensor([[0, 7, 30, 99, 2]])


@torch.no_grad()
def _output(model):
    return model(IDS)[0]


def test_a_packed_model_of_the_hub(publish, write_packed, tmp_path):
    """`load`, the Auto classes and `evaluate` take its name."""
    write_packed(tmp_path / "packed")
    publish(tmp_path / "packed", "owner/packed", "v2")
    here = load(tmp_path / "packed")[0]
    assert torch.equal(_output(load("owner/packed@v2")[0]), _output(here))
    named = AutoModel.from_pretrained("owner/packed", revision="v2")
    assert torch.equal(_output(named), _output(here))
    assert read_classifier("owner/packed@v2").record is not None
    with pytest.raises(CheckpointError, match="'owner/packed@v3'"):
        load("owner/packed@v3")
