"""A tokenizer of a hundred words, fast and slow."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import BertJapaneseTokenizer, PreTrainedTokenizerFast

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
UNK, CLS, SEP = 1, 2, 3
WORDS = {f"w{number}": number for number in range(len(SPECIALS), 100)}


def make_tokenizer(words: dict[str, int] = WORDS) -> PreTrainedTokenizerFast:
    vocabulary = dict(zip(SPECIALS, range(len(SPECIALS)), strict=True)) | words
    backend = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = WhitespaceSplit()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=8,
        **{f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")},
    )


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture
def slow_tokenizer(tmp_path: Path) -> BertJapaneseTokenizer:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*SPECIALS, *WORDS]), encoding="utf-8")
    return BertJapaneseTokenizer(
        str(path), do_subword_tokenize=True, word_tokenizer_type="basic", model_max_length=8
    )


def words(*numbers: int) -> str:
    return " ".join(f"w{number}" for number in numbers)
