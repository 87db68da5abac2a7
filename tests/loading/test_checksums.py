"""What fine-tuning wrote for other libraries is as it was, or is refused."""

from __future__ import annotations

import json

import pytest

from bipft_compress.errors import CheckpointError
from bipft_compress.loading.checksums import FINE_TUNED, read_fine_tuned, write_fine_tuned

VALUES = {"task": "sst2", "labels": ("no", "yes")}


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"abc")
    (tmp_path / "README.md").write_text("a model card")
    write_fine_tuned(tmp_path, VALUES)
    return tmp_path


def test_what_was_written_is_read(directory):
    values = read_fine_tuned(directory)
    assert values["labels"] == ["no", "yes"]
    assert values["files"].keys() == {"config.json", "model.safetensors"}
    # What is never read may change.
    (directory / "README.md").write_text("a better card")
    (directory / "scores.csv").write_text("1")
    assert read_fine_tuned(directory) == values


def _flip(directory):
    (directory / "model.safetensors").write_bytes(b"abd")


def _remove(directory):
    (directory / "config.json").unlink()


def _add(directory):
    (directory / "special_tokens_map.json").write_text("{}")


def _rename_label(directory):
    path = directory / FINE_TUNED
    path.write_text(path.read_text().replace("yes", "eys"))


def _drop_list(directory):
    values = json.loads((directory / FINE_TUNED).read_text())
    del values["files"]
    (directory / FINE_TUNED).write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_flip, r"model\.safetensors does not match its checksum"),
        (_remove, r"has no config\.json"),
        (_add, r"special_tokens_map\.json is not of the fine-tuning .* remove it"),
        (_rename_label, r"finetuning\.json does not match its own checksum"),
        (_drop_list, r"finetuning\.json does not match its own checksum"),
    ],
)
def test_what_was_changed_is_refused(directory, change, says):
    change(directory)
    with pytest.raises(CheckpointError, match=says):
        read_fine_tuned(directory)


def test_an_older_release_wrote_no_checksums(tmp_path):
    (tmp_path / FINE_TUNED).write_text(json.dumps(VALUES))
    (tmp_path / "config.json").write_text("{}")
    assert read_fine_tuned(tmp_path)["task"] == "sst2"
