"""sentence-transformers reads packed artefacts as it reads its own checkpoints."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import entry_points

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bipft_compress import checkpoint, jobs
from bipft_compress.recipe import Recipe

from ..loading.test_sentence import LONGEST, QUICK, TEXT, write_sentence_files

sentence_transformers = pytest.importorskip("sentence_transformers")

TEXTS = ["ab cd ef", "gh ij", "kl mn op ab " * 30]


@pytest.fixture(scope="module")
def make_packed(write_checkpoint, tmp_path_factory):
    """`make_packed(pooling)`: a packed sentence-transformers checkpoint."""

    def make(pooling="mean_tokens"):
        root = tmp_path_factory.mktemp("packed")
        write_checkpoint(root / "original")
        write_sentence_files(root / "original", pooling)
        (root / "text.txt").write_text(TEXT)
        jobs.compress_checkpoint(
            root / "original", Recipe.load(QUICK), root / "binary", calibration=root / "text.txt"
        )
        jobs.pack_checkpoint(root / "binary", root / "packed")
        return root / "packed"

    return make


@pytest.fixture(scope="module")
def packed(make_packed):
    return make_packed()


@torch.no_grad()
def _expected(directory, texts, pool):
    model, tokenizer, record = checkpoint.load(directory)
    inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    assert inputs["input_ids"].shape[1] == LONGEST
    mask = inputs["attention_mask"].unsqueeze(-1)
    pooled = pool(model(**inputs).last_hidden_state, mask)
    dense = record.pipeline.modules[1].tensors
    return F.normalize(pooled @ dense["linear.weight"].T + dense["linear.bias"], dim=-1).numpy()


def _weighted(hidden, mask):
    weights = mask * torch.arange(1, hidden.shape[1] + 1).view(1, -1, 1)
    return (hidden * weights).sum(1) / weights.sum(1)


POOLINGS = {
    "mean_tokens": lambda hidden, mask: (hidden * mask).sum(1) / mask.sum(1),
    "cls_token": lambda hidden, mask: hidden[:, 0],
    "max_tokens": lambda hidden, mask: hidden.masked_fill(mask == 0, -1e9).amax(1),
    "weightedmean_tokens": _weighted,
}


@pytest.mark.parametrize("pooling", POOLINGS)
def test_embeddings_are_pooled_projected_and_normalised(make_packed, pooling):
    directory = make_packed(pooling)
    model = sentence_transformers.SentenceTransformer(str(directory), device="cpu")
    expected = _expected(directory, TEXTS, POOLINGS[pooling])
    np.testing.assert_allclose(model.encode(TEXTS), expected, atol=1e-4)


def test_settings_are_those_of_the_original(packed):
    model = sentence_transformers.SentenceTransformer(str(packed), device="cpu", truncate_dim=8)
    assert model.max_seq_length == LONGEST
    assert model.similarity_fn_name == "dot"
    assert model.prompts["query"] == "ab: "
    assert model.encode(TEXTS).shape == (3, 8)
    asked = model.encode("cd ef", prompt_name="query")
    np.testing.assert_allclose(asked, model.encode("ab: cd ef"), atol=1e-6)


def test_what_it_saves_is_read_again(packed, tmp_path):
    model = sentence_transformers.SentenceTransformer(str(packed), device="cpu")
    model.save_pretrained(str(tmp_path / "saved"))
    again = sentence_transformers.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert np.array_equal(again.encode(TEXTS), model.encode(TEXTS))


def test_a_reranker_scores_pairs(write_checkpoint, tmp_path):
    write_checkpoint(tmp_path / "original", "bert", "ForSequenceClassification", num_labels=1)
    (tmp_path / "text.txt").write_text(TEXT)
    text = tmp_path / "text.txt"
    jobs.compress_checkpoint(
        tmp_path / "original", Recipe.load(QUICK), tmp_path / "binary", calibration=text
    )
    jobs.pack_checkpoint(tmp_path / "binary", tmp_path / "packed")
    model = sentence_transformers.CrossEncoder(str(tmp_path / "packed"), device="cpu")
    pairs = [("ab cd", "ef gh"), ("kl", "mn op ab")]
    own, tokenizer, _ = checkpoint.load(tmp_path / "packed")
    inputs = tokenizer(*map(list, zip(*pairs, strict=True)), padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = own(**inputs).logits.sigmoid().squeeze(1).numpy()
    np.testing.assert_allclose(model.predict(pairs), expected, atol=1e-5)


@pytest.mark.slow
def test_no_import_of_ours_is_needed_here_or_in_workers(packed, tmp_path):
    if not entry_points(group="torch.backends", name="bipft-compress"):
        pytest.skip("installed before there was an entry point: pip install -e . again")
    script = tmp_path / "encode.py"
    script.write_text(
        "import json, sys\n"
        "from sentence_transformers import SentenceTransformer\n"
        "if __name__ == '__main__':\n"
        "    model = SentenceTransformer(sys.argv[1], device='cpu')\n"
        "    texts = json.loads(sys.argv[2])\n"
        "    one = model.encode(texts)\n"
        "    two = model.encode(texts, device=['cpu', 'cpu'], chunk_size=1)\n"
        "    print(abs(one - two).max())\n"
    )
    done = subprocess.run(
        [sys.executable, script, packed, json.dumps(TEXTS)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) < 1e-6
