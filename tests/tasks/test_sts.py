"""Sentence similarity: files are read as they are, and padding never reaches an embedding."""

from __future__ import annotations

import pyarrow
import pyarrow.parquet
import pytest
import torch

from bipft_compress.errors import CorpusError
from bipft_compress.families import max_sequence_length
from bipft_compress.tasks import sts
from bipft_compress.tasks.sts import (
    PairEmbeddings,
    SentencePairs,
    embed,
    embed_pairs,
    embedding_floor,
    likeness,
    spearman,
)

SENTENCES = ["ab cd", "ef gh ab", "aa bb ac ad ab cd ef", "p o n"]


def test_glue_layout_keeps_quotes(tmp_path):
    path = tmp_path / "dev.tsv"
    path.write_text('index\tsentence1\tsentence2\tscore\n0\t"ab\tcd\t2.5\n1\tef\tgh"\t4\n')
    assert SentencePairs.read(path) == SentencePairs(['"ab', "ef"], ["cd", 'gh"'], [2.5, 4.0])


def test_csv_and_parquet(tmp_path):
    (tmp_path / "a.csv").write_text('sentence1,sentence2,score\n"a, b",c,1\nd,e,2\n')
    columns = {"sentence1": ["a, b", "d"], "sentence2": ["c", "e"], "score": [1.0, 2.0]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    expected = SentencePairs(["a, b", "d"], ["c", "e"], [1.0, 2.0])
    assert SentencePairs.read(tmp_path / "a.csv") == expected
    assert SentencePairs.read(tmp_path / "a.parquet") == expected


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("sentence1\tsentence2\na\tb\n", "must have the columns"),
        ("sentence1\tsentence2\tscore\na\tb\thigh\n", "cannot be read as sentence pairs"),
        ("sentence1\tsentence2\tscore\na\tb\t1\n", "holds 1 sentence pairs"),
    ],
)
def test_faults(tmp_path, content, says):
    (tmp_path / "a.tsv").write_text(content)
    with pytest.raises(CorpusError, match=says):
        SentencePairs.read(tmp_path / "a.tsv")


def test_missing_file(tmp_path):
    with pytest.raises(CorpusError, match="There is no file"):
        SentencePairs.read(tmp_path / "none.tsv")


def test_embeddings_do_not_depend_on_their_batch(family, make_pair, tokenizer):
    student = make_pair(family).student
    together = embed(student, tokenizer, SENTENCES)
    alone = torch.cat([embed(student, tokenizer, [sentence]) for sentence in SENTENCES])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(4))


def test_sentences_are_cut_to_the_positions_there_are(family, make_model, tokenizer):
    model = make_model(family)
    longest = " ".join(["ab cd"] * 100)
    (embedding,) = embed(model, tokenizer, [longest])
    kept = max_sequence_length(model.config) // 2 * ["ab cd"]
    torch.testing.assert_close(embedding, embed(model, tokenizer, [" ".join(kept)])[0])


def test_spearman_is_of_the_cosines(make_model, tokenizer):
    model = make_model("bert")
    first, second = embed(model, tokenizer, SENTENCES), embed(model, tokenizer, SENTENCES[::-1])
    cosines = (first * second).sum(1).tolist()
    same = SentencePairs(SENTENCES, SENTENCES[::-1], cosines)
    assert spearman(model, tokenizer, same) == pytest.approx(1)
    opposite = SentencePairs(SENTENCES, SENTENCES[::-1], [-c for c in cosines])
    assert spearman(model, tokenizer, opposite) == pytest.approx(-1)


def test_the_floor_is_of_the_sentences_that_are_embedded(make_model, tokenizer):
    """What lies beyond the model's positions counts for neither."""
    model = make_model("bert")
    room = max_sequence_length(model.config) - 2  # [CLS] and [SEP]
    words = ("ab", "cd", "ad"), ("ac", "ab", "bd")
    first, second = ([" ".join([word] * room) for word in texts] for texts in words)
    # What is beyond would make each pair in turn the one most alike.
    for number in range(3):
        tails = [second[number] * 9 if number == pair else "" for pair in range(3)]
        longer = [f"{text} {tail}" for text, tail in zip(first, tails, strict=True)]
        scores = [3.0 if number == pair else 1.0 for pair in range(3)]
        original = embed_pairs(model, tokenizer, first, second)
        assert embedding_floor(
            model, tokenizer, SentencePairs(longer, second, scores), original
        ) == embedding_floor(model, tokenizer, SentencePairs(first, second, scores), original)


def test_the_floor_is_all_that_a_linear_map_reads_from_words(make_model, tokenizer, monkeypatch):
    """An original that is no more than such a map has no layer to be measured by."""
    model, generator = make_model("bert"), torch.Generator().manual_seed(0)
    letters = "abcdefghijklmnop"
    picks = torch.randint(16, (300, 4), generator=generator).tolist()
    texts = [" ".join(letters[pick] for pick in row) for row in picks]
    mixing = torch.randn(36, 36, generator=generator)

    def linear(sentences):
        means = torch.from_numpy(sts._word_means(model, tokenizer, sentences))
        return torch.nn.functional.normalize(means @ mixing, dim=-1)

    original = PairEmbeddings(linear(texts[:150]), linear(texts[150:]))
    pairs = SentencePairs(texts[:150], texts[150:], original.cosines.tolist())
    few = SentencePairs(texts[:20], texts[150:170], pairs.scores[:20])
    mapped = embedding_floor(model, tokenizer, pairs, original)
    monkeypatch.setattr(sts, "FLOOR_FOLDS", 10**6)  # too few for any map: the plain mean
    plain = embedding_floor(model, tokenizer, pairs, original)
    assert plain < 0.9 < 0.97 < mapped
    assert embedding_floor(model, tokenizer, few, original) < 0.97


def test_likeness_of_a_model_to_itself_is_one(make_model, tokenizer):
    model, other = make_model("bert"), make_model("bert", seed=1)
    assert likeness(model, model, tokenizer, SENTENCES) == pytest.approx((1, 1))
    assert likeness(model, other, tokenizer, SENTENCES).cosine < 0.9
