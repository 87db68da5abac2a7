"""Embedding tasks by name, on models and on any function from texts to vectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from transformers import BertConfig, BertModel

from bipft_compress.errors import CorpusError, UserError
from bipft_compress.tasks.embedding import unit_rows
from bipft_compress.tasks.embedding_tasks import embedder, read_embedding_task
from bipft_compress.tasks.sts import SentencePairs, StsTask, embed, spearman

HEADER = "sentence1\tsentence2\tscore\n"
ROWS = "ab cd\tab ef\t5\nef gh\taa bb\t1\nac\tad ab\t3\n"


@pytest.fixture
def sets(tmp_path):
    folder = tmp_path / "sets"
    folder.mkdir()
    (folder / "one.tsv").write_text(HEADER + ROWS)
    (folder / "two.tsv").write_text(HEADER + ROWS.replace("5\n", "0\n"))
    return folder


def lengths(texts):
    """Cosines fall with the difference in length."""
    angles = np.array([len(text) for text in texts]) / 10
    return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32) * 3


def test_every_set_and_the_mean_of_all(sets):
    # Differences in length 0, 0 and 3: the cosines' ranks are 2.5, 2.5 and 1.
    one = spearmanr([2.5, 2.5, 1], [5, 1, 3]).statistic
    two = spearmanr([2.5, 2.5, 1], [0, 1, 3]).statistic
    assert StsTask(sets).measure(lengths) == pytest.approx(
        {"sts_spearman_one": one, "sts_spearman_two": two, "sts_spearman_mean": (one + two) / 2}
    )


def test_files_and_directories_with_commas(sets):
    (sets.parent / "dev.tsv").write_text(HEADER + ROWS)
    task = StsTask(f"{sets},{sets.parent / 'dev.tsv'}")
    # A split is called by its directory too.
    assert list(task.sets) == ["one", "two", f"{sets.parent.name}-dev"]
    assert list(StsTask(sets / "one.tsv").measure(lengths)) == ["sts_spearman_one"]


def test_a_directory_without_tables(tmp_path):
    with pytest.raises(CorpusError, match="holds no sentence pairs"):
        StsTask(tmp_path)


def test_a_model_measures_as_it_does_alone(sets, make_model, tokenizer):
    model = make_model("bert")
    values = read_embedding_task("sts", sets).measure(embedder(model, tokenizer))
    for name in ("one", "two"):
        pairs = SentencePairs.read(sets / f"{name}.tsv")
        assert values[f"sts_spearman_{name}"] == pytest.approx(spearman(model, tokenizer, pairs))


def test_documents_are_read_further_than_sentences(tokenizer):
    torch.manual_seed(0)
    sizes = {"hidden_size": 12, "num_attention_heads": 2, "num_hidden_layers": 1}
    config = BertConfig(**sizes, intermediate_size=8, vocab_size=101, max_position_embeddings=300)
    model = BertModel(config).eval()
    text = " ".join(["ab"] * 200 + ["cd"] * 20)  # two special tokens beside
    longer = torch.from_numpy(embedder(model, tokenizer)([text]))
    assert not torch.allclose(longer, embed(model, tokenizer, [text]), atol=1e-3)
    torch.testing.assert_close(longer, embed(model, tokenizer, [text], 256))


def test_unit_rows():
    rows = unit_rows(np.array([[3, 4], [0, 0]], dtype=np.float32))
    assert rows.tolist() == [pytest.approx([0.6, 0.8]), [0, 0]]


def test_faults(sets):
    with pytest.raises(UserError, match="do not go with --task sts"):
        read_embedding_task("sts", sets, text="question")
    with pytest.raises(UserError, match="Unknown task 'clustering'"):
        read_embedding_task("clustering", sets)
