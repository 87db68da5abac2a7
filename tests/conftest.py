"""Tiny models of every family with random weights, a tiny tokenizer, and checkpoints of them."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import NamedTuple

# Before transformers is imported: no test may ask the network for anything.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
import transformers
from hypothesis import settings
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from bipft_compress.convert.embedding_fit import fit_embedding
from bipft_compress.convert.initialise import initialise
from bipft_compress.convert.swap import Decision, swap
from bipft_compress.families import Encoder, get_module
from bipft_compress.nn import CompressedEmbedding
from bipft_compress.recipe import Recipe

# On a busy machine a deadline measures the neighbours.
settings.register_profile("tests", deadline=None, derandomize=True)
settings.load_profile("tests")

VOCABULARY = 101
PAD = 1
"""As in RoBERTa, whose positions begin after it; the tokenizer below agrees."""


def _bert_like(hidden: int, heads: int, **more) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_hidden_layers": 2,
        "intermediate_size": 50,
        **more,
    }


# No width is a multiple of 8 but one, and none of 64: packed words are always ragged.
SIZES = {
    "bert": ("Bert", _bert_like(36, 3)),
    "roberta": ("Roberta", _bert_like(36, 3, type_vocab_size=1)),
    "xlm-roberta": ("XLMRoberta", _bert_like(40, 4, type_vocab_size=1)),
    "camembert": ("Camembert", _bert_like(36, 4, type_vocab_size=1)),
    "distilbert": (
        "DistilBert",
        {"dim": 36, "n_heads": 3, "n_layers": 2, "hidden_dim": 50},
    ),
    "electra": ("Electra", _bert_like(36, 3, embedding_size=20)),
}


@pytest.fixture(params=SIZES)
def family(request) -> str:
    """Every supported model type in turn."""
    return request.param


@pytest.fixture(scope="session")
def make_model():
    """`make_model(family, head="Model", seed=0, **config)`: full precision, evaluation mode."""

    def make(family: str, head: str = "Model", seed: int = 0, **overrides) -> PreTrainedModel:
        prefix, sizes = SIZES[family]
        model_class = getattr(transformers, prefix + head)
        config = model_class.config_class(
            vocab_size=VOCABULARY,
            max_position_embeddings=40,
            pad_token_id=PAD,
            bos_token_id=0,
            eos_token_id=2,
            attn_implementation="eager",
            **(sizes | overrides),
        )
        model = model_class(config).eval()
        # The library's own start has zero biases and unit gains: they would hide mistakes.
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in model.parameters():
                noise = torch.randn(weight.shape, generator=generator)
                if weight.dim() > 1:
                    weight.copy_(0.2 * noise)
                else:
                    weight.add_(0.1 * noise)
        return model

    return make


class Pair(NamedTuple):
    """A binary model, the original it was made from, its parts and what was decided."""

    student: PreTrainedModel
    teacher: PreTrainedModel
    encoder: Encoder
    decisions: list[Decision]
    errors: list[float]


@pytest.fixture
def tiny_config():
    """Widths that are no multiples of 8, and a head that is no power of two."""
    return transformers.BertConfig(
        hidden_size=36,
        num_attention_heads=3,
        num_hidden_layers=2,
        intermediate_size=50,
        vocab_size=101,
        max_position_embeddings=16,
    )


@pytest.fixture(scope="session")
def batches() -> list[torch.Tensor]:
    """Token ids of two lengths, without padding."""
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(5, VOCABULARY, (6, n), generator=generator) for n in (9, 14, 14, 9)]


@pytest.fixture(scope="session")
def make_pair(make_model, batches):
    """`make_pair(family, head="Model", recipe={})`: swapped and initialised."""

    def make(family: str, head: str = "Model", recipe: dict | None = None) -> Pair:
        teacher = make_model(family, head)
        student = copy.deepcopy(teacher)
        chosen = Recipe.load(recipe or {})
        encoder, decisions = swap(student, chosen)
        embedding = get_module(student, encoder.word_embeddings)
        if isinstance(embedding, CompressedEmbedding):
            table = get_module(teacher, encoder.word_embeddings).weight.detach()
            frequencies = torch.arange(VOCABULARY, 0, -1).float() ** 2
            fit_embedding(embedding, table, frequencies / frequencies.sum(), seed=0)
        errors = initialise(student, teacher, encoder, batches, chosen.initialisation)
        return Pair(student.eval(), teacher, encoder, decisions, errors)

    return make


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """WordPiece over a few letters: 5 special tokens and 96 pieces."""
    letters = "abcdefghijklmnop"
    pieces = [*letters, *(f"##{c}" for c in letters), *(a + b for a in "abcd" for b in letters)]
    special = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"]
    vocabulary = {piece: number for number, piece in enumerate(special + pieces)}
    assert len(vocabulary) == VOCABULARY
    raw = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        cls_token="[CLS]",
        pad_token="[PAD]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        mask_token="[MASK]",
        model_max_length=38,
    )


@pytest.fixture(scope="session")
def write_checkpoint(make_model, tokenizer):
    """`write_checkpoint(directory, family, head="Model")`: a full-precision checkpoint on disk."""

    def write(directory, family: str = "bert", head: str = "Model", **config) -> PreTrainedModel:
        model = make_model(family, head, **config)
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        return model

    return write


@pytest.fixture
def make_checkpoint(tmp_path, write_checkpoint):
    """`make_checkpoint(family, head="Model")`: directory of a new full-precision checkpoint."""

    def make(family: str, head: str = "Model") -> Path:
        directory = tmp_path / f"{family}-{head}"
        write_checkpoint(directory, family, head)
        return directory

    return make
