"""Tiny models of every family with random weights, a tiny tokenizer, and checkpoints of them."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
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

from bipft_compress import cli
from bipft_compress.families import Encoder, get_module, teacher_of
from bipft_compress.fitting.embedding import fit_embedding
from bipft_compress.fitting.initialise import initialise
from bipft_compress.nn import BinaryAttention, BinaryLinear, CompressedEmbedding
from bipft_compress.recipe import Recipe
from bipft_compress.structure.swap import Decision, swap

from .hub_cache import publish  # noqa: F401 - a fixture
from .packing import make_binary, pack_in_memory, padded, write_packed  # noqa: F401 - fixtures

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
    "ernie": ("Ernie", _bert_like(36, 3)),
    "data2vec-text": ("Data2VecText", _bert_like(36, 3, type_vocab_size=1)),
    "layoutlm": ("LayoutLM", _bert_like(36, 3, max_2d_position_embeddings=40)),
    "splinter": ("Splinter", _bert_like(36, 3, question_token_id=VOCABULARY - 1)),
    "rembert": (
        "RemBert",
        _bert_like(36, 3, input_embedding_size=20, output_embedding_size=28),
    ),
    "roberta-prelayernorm": ("RobertaPreLayerNorm", _bert_like(36, 3, type_vocab_size=1)),
    "xlm-roberta-xl": ("XLMRobertaXL", _bert_like(36, 3, type_vocab_size=1)),
    "megatron-bert": ("MegatronBert", _bert_like(36, 3)),
    "xmod": (
        "Xmod",
        _bert_like(
            36, 3, type_vocab_size=1, languages=["en_XX", "de_DE"], default_language="en_XX"
        ),
    ),
    "mpnet": ("MPNet", _bert_like(36, 3)),
    "albert": (
        "Albert",
        _bert_like(36, 3, num_hidden_layers=4, embedding_size=20, num_hidden_groups=2),
    ),
    "deberta": (
        "Deberta",
        _bert_like(36, 3, relative_attention=True, pos_att_type=["c2p", "p2c"], type_vocab_size=0),
    ),
    "deberta-v2": (
        "DebertaV2",
        _bert_like(
            36,
            3,
            relative_attention=True,
            pos_att_type=["c2p", "p2c"],
            position_buckets=8,
            share_att_key=True,
            norm_rel_ebd="layer_norm",
            position_biased_input=False,
            type_vocab_size=0,
        ),
    ),
    "modernbert": (
        "ModernBert",
        _bert_like(36, 3, num_hidden_layers=4, local_attention=8, cls_token_id=0, sep_token_id=2),
    ),
    "mobilebert": (
        "MobileBert",
        _bert_like(
            36,
            3,
            embedding_size=20,
            intra_bottleneck_size=24,
            num_feedforward_networks=2,
            normalization_type="no_norm",
        ),
    ),
    "nomic_bert": ("NomicBert", _bert_like(36, 3, head_dim=12)),
    "roformer": ("RoFormer", _bert_like(36, 3, embedding_size=20)),
    "eurobert": ("EuroBert", _bert_like(48, 4, num_key_value_heads=2, head_dim=12)),
}


SHAPES = (
    "bert", "mpnet", "albert", "deberta-v2", "modernbert", "mobilebert", "eurobert", "roformer",
)  # fmt: skip
"""A family for each block that differs: plain, with a bias of positions, called several times,
disentangled, with norms first, a gate and windows, with a bottleneck, with grouped queries, and
with neighbours that turn."""

LACKING = {
    "splinter": {"ForMaskedLM", "ForSequenceClassification", "ForTokenClassification"},
}
"""Heads that tests ask of every family and transformers does not have."""


@pytest.fixture
def call(monkeypatch, capfd):
    """`call(*arguments)`: exit code, standard output and standard error of a command."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["bipft-compress", *map(str, arguments)])
        capfd.readouterr()  # what fixtures printed before
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capfd.readouterr()
        return stop.value.code or 0, out, err

    return run


@pytest.fixture
def small_disk(tmp_path):
    """`small_disk(size)`: an empty file system of so many bytes; a skip where none mounts."""
    disk = tmp_path / "disk"

    def mount(size: int) -> Path:
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting a file system is not permitted here")
        return disk

    yield mount
    if disk.is_mount():
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.fixture(params=SIZES)
def family(request) -> str:
    """Every supported model type in turn."""
    return request.param


@pytest.fixture(params=SHAPES)
def shape(request) -> str:
    """A model type for each block that differs; for tests too slow for every family."""
    return request.param


@pytest.fixture(scope="session")
def make_model():
    """`make_model(family, head="Model", seed=0, **config)`: full precision, evaluation mode.

    A test for a head of `LACKING` is skipped.
    """

    def make(family: str, head: str = "Model", seed: int = 0, **overrides) -> PreTrainedModel:
        prefix, sizes = SIZES[family]
        if head in LACKING.get(family, ()):
            pytest.skip(f"transformers has no {prefix}{head}")
        model_class = getattr(transformers, prefix + head)
        config = model_class.config_class(
            vocab_size=VOCABULARY,
            pad_token_id=PAD,
            bos_token_id=0,
            eos_token_id=2,
            attn_implementation="eager",
            **({"max_position_embeddings": 40} | sizes | overrides),
        )
        model = model_class(config).eval()
        # The library's own start has zero biases and unit gains: they would hide mistakes.
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in model.parameters():
                if not weight.requires_grad:
                    continue  # RoFormer's sines and cosines
                noise = torch.randn(weight.shape, generator=generator)
                if weight.dim() > 1:
                    weight.copy_(0.2 * noise)
                else:
                    weight.add_(0.1 * noise)
            # As in trained models: MobileBERT's words see the embeddings of their neighbours.
            table = model.get_input_embeddings()
            if table.padding_idx is not None:
                table.weight[table.padding_idx] = 0
        return model

    return make


class Pair(NamedTuple):
    """A binary model, transformers' own that it was made from, its parts and what was decided."""

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


def _swapped(teacher: PreTrainedModel, recipe: Recipe) -> Pair:
    """A copy of a model with binary modules that hold no values yet, its embeddings fitted."""
    student = copy.deepcopy(teacher)
    encoder, decisions = swap(student, recipe)
    embedding = get_module(student, encoder.word_embeddings)
    if isinstance(embedding, CompressedEmbedding):
        table = get_module(teacher, encoder.word_embeddings).weight.detach()
        frequencies = torch.arange(VOCABULARY, 0, -1).float() ** 2
        fit_embedding(embedding, table, frequencies / frequencies.sum(), seed=0)
    return Pair(student.eval(), teacher, encoder, decisions, [])


@pytest.fixture(scope="session")
def make_pair(make_model, batches):
    """`make_pair(family, head="Model", recipe={})`: swapped and initialised."""

    def make(family: str, head: str = "Model", recipe: dict | None = None) -> Pair:
        chosen = Recipe.load(recipe or {})
        pair = _swapped(make_model(family, head), chosen)
        choices = chosen.initialisation
        teacher = teacher_of(pair.teacher)
        pair.errors.extend(initialise(pair.student, teacher, pair.encoder, batches, choices))
        return pair

    return make


@pytest.fixture(scope="session")
def make_random_pair(make_model):
    """`make_random_pair(family, head="Model", recipe={})`: swapped, with random numbers.

    For what holds whatever the numbers are: several times faster than `make_pair`.
    """

    def make(family: str, head: str = "Model", recipe: dict | None = None) -> Pair:
        pair = _swapped(make_model(family, head), Recipe.load(recipe or {}))
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for module in pair.student.modules():
                if not isinstance(module, (BinaryLinear, BinaryAttention)):
                    continue
                for name, parameter in module.named_parameters():
                    parameter.normal_(0.0, 0.2, generator=generator)
                    if "scale" in name or "clip" in name:
                        parameter.abs_().add_(0.05)
        return pair

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
