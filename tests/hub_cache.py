"""A cache of the hub on disk, in its own layout: what `huggingface_hub` resolves offline."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """`publish(directory, name, revision="main")`: its commit, as if all of it had been fetched."""
    root = tmp_path / "hub-cache"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(root))

    def add(directory: Path, name: str, revision: str = "main") -> str:
        repository = root / f"models--{name.replace('/', '--')}"
        commit = hashlib.sha1(f"{name}@{revision}".encode()).hexdigest()
        reference = repository / "refs" / revision
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(commit)
        shutil.copytree(directory, repository / "snapshots" / commit)
        # What was asked for and is not there, which the hub's library notes too.
        absent = repository / ".no_exist" / commit
        absent.mkdir(parents=True)
        for file in ("modules.json", "README.md", "compression.json", "finetuning.json"):
            if not (directory / file).exists():
                (absent / file).touch()
        return commit

    return add
