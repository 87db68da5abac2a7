"""A labelled task that can be learnt, and checkpoints to learn it with."""

from __future__ import annotations

import csv
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from bipft_compress.benchmarking import run
from bipft_compress.jobs import compress_checkpoint
from bipft_compress.recipe import Recipe


def kill_after_a_checkpoint(process: subprocess.Popen[bytes], work: Path) -> None:
    """SIGKILL some steps after the first complete checkpoint in `work`, and not at the end."""
    deadline = time.monotonic() + 120
    while not list(work.glob("checkpoint-*/complete")):
        assert process.poll() is None, "training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


FINETUNING = {
    "initialisation": {"calibration_tokens": 400, "batch_tokens": 200, "sequence_length": 24},
    "embeddings": {"subvector": 4},
    "finetuning": {
        "sequence_length": 24,
        "full_precision_learning_rate": 2e-3,
        "adapter_learning_rate": 1e-2,
        "training": {
            "max_steps": 12,
            "per_device_train_batch_size": 8,
            "learning_rate": 2e-3,
            "logging_steps": 4,
            "save_steps": 4,
            "use_cpu": True,
            "seed": 3,
        },
    },
}


@pytest.fixture(autouse=True)
def resident_sizes_are_given(monkeypatch):
    """Measuring them takes two processes a call: tests/benchmarking/test_resident.py does."""
    monkeypatch.setattr(run, "resident_bytes", lambda *loader: 1_000_000)


@pytest.fixture
def corpus(tmp_path):
    """Documents of made-up words."""
    generator = torch.Generator().manual_seed(5)
    words = ["".join("abcdefgh"[i] for i in row) for row in torch.randint(8, (60, 3)).tolist()]
    picks = torch.randint(len(words), (60, 60), generator=generator).tolist()
    path = tmp_path / "corpus.txt"
    path.write_text("\n\n".join(" ".join(words[i] for i in row) for row in picks))
    return path


@pytest.fixture
def sst2(tmp_path):
    """GLUE's layout; a text is positive if it begins with a letter of the first half."""
    generator = torch.Generator().manual_seed(2)
    for split, count in (("train", 64), ("dev", 32)):
        letters = torch.randint(8, (count, 6), generator=generator).tolist()
        rows = [
            (" ".join("abcdefgh"[letter] for letter in row), int(row[0] < 4)) for row in letters
        ]
        directory = tmp_path / "glue" / "SST-2"
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / f"{split}.tsv").open("w") as file:
            csv.writer(file, delimiter="\t").writerows([("sentence", "label"), *rows])
    return tmp_path / "glue"


@pytest.fixture
def make_binary(tmp_path, make_checkpoint):
    """`make_binary(family, head)`: directory of a compressed tiny checkpoint."""
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"ab cd ef gh a{c} b{c} c{c} ab ac ad" for c in "abcdefgh" * 5))

    def make(family="bert", head="Model"):
        out = tmp_path / f"binary-{family}-{head}"
        recipe = Recipe.load(FINETUNING)
        compress_checkpoint(make_checkpoint(family, head), recipe, out, calibration=text)
        return out

    return make
