"""Made what lies beside it; runs with version 0.1 of bipft-compress only."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from bipft_compress.convert.embedding_fit import fit_embedding
from bipft_compress.convert.initialise import initialise
from bipft_compress.convert.storage import round_to_stored
from bipft_compress.convert.swap import swap
from bipft_compress.record import Record
from bipft_compress.runtime.artefact import write_artefact
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedTokenizerFast,
)

from bipft_compress import checkpoint
from bipft_compress.families import get_module
from bipft_compress.nn import CompressedEmbedding
from bipft_compress.recipe import Recipe

HERE = Path(__file__).parent
VOCABULARY = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
COMMON = {"vocab_size": len(VOCABULARY), "max_position_embeddings": 16, "pad_token_id": 1}
MODELS = {
    "bert": (
        BertForMaskedLM,
        BertConfig(
            hidden_size=12,
            num_attention_heads=2,
            num_hidden_layers=2,
            intermediate_size=20,
            **COMMON,
        ),
        {"embeddings": {"code": "sign"}, "estimators": {"query": 2, "scores": 1, "context": 1}},
    ),
    "distilbert": (
        DistilBertForSequenceClassification,
        DistilBertConfig(dim=12, n_heads=2, n_layers=2, hidden_dim=20, num_labels=3, **COMMON),
        {
            "embeddings": {"frequent_fraction": 0.3, "subvector": 6},
            "estimators": {"attention_reads": "hidden-states", "scores": 2, "context": 1},
            "activations": {"elastic": True, "key_value_bits": 2},
        },
    ),
}


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a letter."""
    words = {piece: number for number, piece in enumerate(VOCABULARY)}
    raw = Tokenizer(models.WordPiece(words, unk_token="[UNK]", continuing_subword_prefix=""))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 2)]
    )
    special = {"cls_token": "[CLS]", "pad_token": "[PAD]", "sep_token": "[SEP]"}
    special |= {"unk_token": "[UNK]", "mask_token": "[MASK]"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=16, **special)


def make(family: str) -> None:
    """A training checkpoint, the same packed, and what they compute."""
    model_class, config, chosen = MODELS[family]
    recipe = Recipe.load(chosen)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    config._attn_implementation = "eager"
    teacher = model_class(config).eval()
    with torch.no_grad():
        for weight in teacher.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(0.2 * noise) if weight.dim() > 1 else weight.add_(0.1 * noise)
    student = copy.deepcopy(teacher)
    encoder, decisions = swap(student, recipe)
    embedding = get_module(student, encoder.word_embeddings)
    assert isinstance(embedding, CompressedEmbedding)
    frequencies = torch.arange(len(VOCABULARY), 0, -1).float()
    table = get_module(teacher, encoder.word_embeddings).weight.detach()
    fit_embedding(embedding, table, frequencies / frequencies.sum(), seed=0)
    batches = [torch.randint(5, 31, (6, n), generator=generator) for n in (9, 12, 12, 9)]
    errors = initialise(student, teacher, encoder, batches, recipe.initialisation)
    round_to_stored(student.eval(), encoder, recipe)
    record = Record(recipe, "teacher", decisions, errors)
    checkpoint.save(HERE / family, student, tokenizer(), record, overwrite=True)

    ids = torch.tensor([[0, 7, 30, 12, 5, 9, 2], [0, 21, 2, 1, 1, 1, 1]])
    inputs = {"input_ids": ids, "attention_mask": (ids != 1).long()}
    with torch.no_grad():
        made = student(**inputs, output_hidden_states=True)
    outputs = {"logits": made.logits, "hidden_states": torch.stack(made.hidden_states)}
    save_file(inputs | outputs, HERE / f"{family}-outputs.safetensors")

    packed = HERE / f"{family}-packed"
    packed.mkdir(exist_ok=True)
    for path in packed.iterdir():
        path.unlink()
    write_artefact(packed, student, encoder, tokenizer(), record)


for name in MODELS:
    make(name)
