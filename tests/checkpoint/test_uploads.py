"""What `push_to_hub` would send is a checkpoint that is read again, by us and by transformers."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import EntryNotFoundError
from transformers import AutoModel

from bipft_compress import checkpoint, jobs
from bipft_compress.checkpoint import load
from bipft_compress.checkpoint.record import Record
from bipft_compress.recipe import Recipe

from ..loading.test_sentence import QUICK, TEXT, write_sentence_files


@pytest.fixture
def uploaded(tmp_path, monkeypatch) -> Path:
    """The files of a repository of the hub, of which nothing is known before."""
    repository = tmp_path / "repository"
    repository.mkdir()

    def create_commit(api, repo_id, operations, **_):
        for operation in operations:
            target = repository / operation.path_in_repo
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(operation.path_or_fileobj, target)

    def upload_folder(api, repo_id, folder_path, **_):
        shutil.copytree(folder_path, repository, dirs_exist_ok=True)
        return SimpleNamespace(commit_url="")

    def load_card(*_, **__):
        raise EntryNotFoundError("no card")

    monkeypatch.setattr(
        HfApi, "create_repo", lambda api, repo_id, **_: SimpleNamespace(repo_id=repo_id)
    )
    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(ModelCard, "load", load_card)
    return repository


@pytest.fixture
def write_form(write_packed, make_binary, tokenizer):
    """`write_form(form, directory)`: a packed or a training checkpoint."""

    def write(form, directory):
        if form == "packed":
            write_packed(directory)
            return
        record = Record(recipe=Recipe(), teacher="teacher-dir")
        checkpoint.save(directory, make_binary("bert").student, tokenizer, record)

    return write


def _assert_no_paths(repository: Path, root: Path) -> None:
    for path in repository.rglob("*"):
        if path.is_file():
            assert str(root).encode() not in path.read_bytes(), path.name


@pytest.mark.parametrize("form", ["packed", "training"])
@pytest.mark.parametrize("read", ["load", "AutoModel"])
def test_a_model_and_its_tokenizer(write_form, uploaded, padded, tmp_path, form, read):
    write_form(form, tmp_path / form)
    model, tokenizer, _ = load(tmp_path / form)
    with torch.no_grad():
        expected = model(**padded).last_hidden_state
    pushed = model if read == "load" else AutoModel.from_pretrained(tmp_path / form)
    pushed.push_to_hub("owner/model")
    tokenizer.push_to_hub("owner/model")
    assert (uploaded / "README.md").is_file()
    _assert_no_paths(uploaded, tmp_path)
    with torch.no_grad():
        for again in (load(uploaded)[0], AutoModel.from_pretrained(uploaded)):
            assert torch.equal(again(**padded).last_hidden_state, expected)


def test_a_sentence_transformer(write_checkpoint, uploaded, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    write_checkpoint(tmp_path / "original")
    write_sentence_files(tmp_path / "original")
    (tmp_path / "text.txt").write_text(TEXT)
    text = tmp_path / "text.txt"
    jobs.compress_checkpoint(
        tmp_path / "original", Recipe.load(QUICK), tmp_path / "binary", calibration=text
    )
    jobs.pack_checkpoint(tmp_path / "binary", tmp_path / "packed")
    model = sentence_transformers.SentenceTransformer(str(tmp_path / "packed"), device="cpu")
    expected = model.encode(["ab cd", "ef"])
    model.push_to_hub("owner/model", replace_model_card=True)
    _assert_no_paths(uploaded, tmp_path)
    again = sentence_transformers.SentenceTransformer(str(uploaded), device="cpu")
    assert np.array_equal(again.encode(["ab cd", "ef"]), expected)
    read, tokenizer, record = load(uploaded)
    assert record.pipeline is not None
    inputs = tokenizer(["ab cd"], return_tensors="pt")
    with torch.no_grad():
        hidden = read(**inputs).last_hidden_state
    vector = record.pipeline.pool(uploaded)(hidden, inputs["attention_mask"])
    np.testing.assert_allclose(
        torch.nn.functional.normalize(vector).numpy(), expected[:1], atol=1e-5
    )
