"""Batches: padding, the statistics of dynamic masking, and sentence pairs."""

from __future__ import annotations

import pytest
import torch

from bipft_compress.tasks.classify import SECOND
from bipft_compress.training.collator import FinetuningCollator, PretrainingCollator, Share

CLS, PAD, SEP, UNK, MASK = range(5)
WORDS = 96
IGNORED = -100


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def _examples(lengths, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [
        {"input_ids": [CLS, *torch.randint(5, 101, (n - 2,), generator=generator).tolist(), SEP]}
        for n in lengths
    ]


def test_padding(tokenizer):
    examples = _examples((5, 9, 3))
    batch = PretrainingCollator(tokenizer)(examples)
    assert set(batch) == {"input_ids", "attention_mask"}
    assert batch["input_ids"].shape == (3, 9)
    assert batch["attention_mask"].sum(1).tolist() == [5, 9, 3]
    for row, example in enumerate(examples):
        length = len(example["input_ids"])
        assert batch["input_ids"][row, :length].tolist() == example["input_ids"]
        assert (batch["input_ids"][row, length:] == PAD).all()
        assert batch["attention_mask"][row, :length].all()


def test_masking_is_80_10_10_of_15_percent(tokenizer):
    examples = _examples([200] * 300)
    examples[0]["input_ids"][5:8] = [UNK, MASK, SEP]  # special tokens amid the text
    original = torch.tensor([example["input_ids"] for example in examples])
    batch = PretrainingCollator(tokenizer, masking=0.15)(examples)
    ids, labels = batch["input_ids"], batch["labels"]
    chosen = labels != IGNORED
    ordinary = original >= 5
    assert not (chosen & ~ordinary).any()
    assert torch.equal(labels[chosen], original[chosen])
    assert torch.equal(ids[~chosen], original[~chosen])
    # Five standard deviations of a binomial of that size.
    n = ordinary.sum().item()
    share = chosen.sum().item() / n
    assert share == pytest.approx(0.15, abs=5 * (0.15 * 0.85 / n) ** 0.5)
    count = chosen.sum().item()
    masked = (chosen & (ids == MASK)).sum().item() / count
    same = (chosen & (ids == original)).sum().item() / count
    other = 1 - masked - same
    spread = 5 * (0.25 / count) ** 0.5
    assert masked == pytest.approx(0.8 + 0.1 / 101, abs=spread)
    assert same == pytest.approx(0.1 + 0.1 / 101, abs=spread)
    assert other == pytest.approx(0.1 * 99 / 101, abs=spread)
    replaced = ids[chosen & (ids != MASK) & (ids != original)]
    assert len(replaced.unique()) > WORDS // 2  # any token, not a favourite


def test_padding_is_never_chosen(tokenizer):
    batch = PretrainingCollator(tokenizer, masking=0.9)(_examples((30, 5, 3)))
    padding = batch["attention_mask"] == 0
    assert (batch["labels"][padding] == IGNORED).all()
    assert (batch["input_ids"][padding] == PAD).all()
    assert (batch["labels"] != IGNORED).sum() > 15


def test_special_tokens_alone_are_left_alone(tokenizer):
    batch = PretrainingCollator(tokenizer, masking=0.9)([{"input_ids": [CLS, UNK, SEP]}])
    assert (batch["labels"] == IGNORED).all()
    assert batch["input_ids"].tolist() == [[CLS, UNK, SEP]]


def test_at_least_one_token_is_chosen(tokenizer):
    collator = PretrainingCollator(tokenizer, masking=1e-9)
    for seed in range(20):
        batch = collator(_examples((3, 4), seed))
        assert (batch["labels"] != IGNORED).sum() == 1


def test_masks_follow_batch_and_seed_alone(tokenizer):
    """A resumed run must draw what the killed one drew, whatever was drawn in between."""
    collator, examples = PretrainingCollator(tokenizer, masking=0.15), _examples([60] * 4)
    first = collator(examples)["labels"]
    torch.rand(7)
    assert torch.equal(collator(examples)["labels"], first)
    # Another deal of the same sequences, as in the next epoch, and another seed mask otherwise.
    turned = collator(examples[::-1])["labels"].flip(0)
    assert not torch.equal(turned, first)
    other = PretrainingCollator(tokenizer, masking=0.15, seed=1)
    assert not torch.equal(other(examples)["labels"], first)


def _halves(batch, row):
    """First and second part of a pair, by token type, without padding."""
    length = int(batch["attention_mask"][row].sum())
    ids = batch["input_ids"][row, :length].tolist()
    types = batch["token_type_ids"][row, :length].tolist()
    assert types == sorted(types)
    assert (batch["token_type_ids"][row, length:] == 0).all()
    cut = types.count(0)
    return ids[:cut], ids[cut:]


def test_pairs_have_the_right_labels_and_types(tokenizer):
    examples = _examples([8, 12, 12, 20, 9] * 40)
    batch = PretrainingCollator(tokenizer, pairs=True)(examples)
    labels = batch["next_sentence_label"]
    assert labels.shape == (200,)
    assert 70 < labels.sum() < 130  # half and half, within four standard deviations
    for row, label in enumerate(labels.tolist()):
        first, second = _halves(batch, row)
        own = examples[row]["input_ids"]
        assert first[0] == CLS
        assert first[-1] == second[-1] == SEP
        assert first[:-1] == own[: len(first) - 1]
        rest = own[len(first) - 1 :]
        if label == 0:
            assert second == rest
        else:
            assert second != rest
            other = examples[(row + 1) % 200]["input_ids"]
            assert second == other[len(other) - len(second) :]


def test_pairs_of_own_halves_keep_every_token(tokenizer):
    """A batch of one has no other sentence to take: one separator more, no token less."""
    for length in (4, 7, 30):
        (example,) = _examples((length,))
        batch = PretrainingCollator(tokenizer, pairs=True)([example])
        assert batch["next_sentence_label"].tolist() == [0]
        first, second = _halves(batch, 0)
        assert first[:-1] + second == example["input_ids"]


def test_pairs_of_equal_length_keep_the_total(tokenizer):
    batch = PretrainingCollator(tokenizer, pairs=True)(_examples([16] * 50))
    assert batch["attention_mask"].sum() == 50 * 17  # a separator each
    assert 0 < batch["next_sentence_label"].sum() < 50


def test_pairs_can_be_masked_too(tokenizer):
    batch = PretrainingCollator(tokenizer, masking=0.15, pairs=True)(_examples([16] * 50))
    expected = {"input_ids", "attention_mask", "token_type_ids", "next_sentence_label", "labels"}
    assert set(batch) == expected
    chosen = batch["labels"] != IGNORED
    assert chosen.any()
    assert (batch["labels"][chosen] >= 5).all()


@pytest.mark.parametrize("count", [8, 5, 1])
def test_shares_are_the_batch(tokenizer, count):
    examples = _examples(range(6, 6 + count))
    whole = PretrainingCollator(tokenizer, masking=0.5, pairs=True, seed=4)
    shares = [Share(whole, 3, index)(examples) for index in range(3)]
    for name, expected in whole(examples).items():
        assert torch.equal(torch.cat([share[name] for share in shares]), expected)


def test_a_share_has_both_texts_of_its_pairs(tokenizer):
    examples = [{"input_ids": [0, n, 2], SECOND: [0, n + 50, 2], "labels": n} for n in (5, 6, 7, 8)]
    share = Share(FinetuningCollator(tokenizer), 2, 1)(examples)
    assert share["labels"].tolist() == [7, 8]
    assert share["input_ids"][:, 1].tolist() == [7, 8, 57, 58]
