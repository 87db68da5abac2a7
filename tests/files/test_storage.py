"""A disk that is full says so, whichever library wrote to it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models

from bipft_compress.errors import CheckpointError, OutputError
from bipft_compress.files import atomic_directory, storage_faults, write_atomically


def _text(path: Path) -> None:
    path.write_text("x" * 4_000_000)


def _record(path: Path) -> None:
    write_atomically(path, "x" * 4_000_000)


def _safetensors(path: Path) -> None:
    save_file({"x": torch.zeros(1_000_000)}, path)


def _torch(path: Path) -> None:
    torch.save({"x": torch.zeros(1_000_000)}, path)


def _tokenizer(path: Path) -> None:
    words = {str(number): number for number in range(200_000)}
    Tokenizer(models.WordLevel(words, unk_token="0")).save(str(path))


@pytest.mark.parametrize("write", [_text, _record, _safetensors, _torch, _tokenizer])
def test_a_full_disk_says_so_and_keeps_the_old(small_disk, write):
    disk = small_disk(2_000_000)
    with atomic_directory(disk / "out") as work:
        (work / "old.txt").write_text("old")
    with (
        pytest.raises(OutputError, match=r"No space left on the disk of .*out"),
        atomic_directory(disk / "out", overwrite=True) as work,
    ):
        write(work / "big")
    assert [path.name for path in disk.rglob("*")] == ["out", "old.txt"]


@pytest.mark.parametrize(
    ("number", "says"),
    [(errno.EDQUOT, "No space left"), (errno.EROFS, "cannot be written"), (errno.EIO, "Input/out")],
)
def test_other_faults_of_the_disk(tmp_path, number, says):
    with pytest.raises(OutputError, match=says), storage_faults(tmp_path):
        raise OSError(number, os.strerror(number))


@pytest.mark.parametrize("error", [FileNotFoundError(2, "x"), RuntimeError("x"), ValueError("x")])
def test_other_errors_pass(tmp_path, error):
    with pytest.raises(type(error)), storage_faults(tmp_path):
        raise error


def test_a_sentence_stays_as_it_is(tmp_path):
    with pytest.raises(CheckpointError, match="mine"), storage_faults(tmp_path):
        raise CheckpointError("mine (os error 28)")
