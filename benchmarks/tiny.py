"""A tiny random BERT with its tokenizer and text: what robustness is measured on."""

from __future__ import annotations

import random
from pathlib import Path

import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

RECIPE = {
    "initialisation": {"calibration_tokens": 400, "batch_tokens": 200, "sequence_length": 24},
    "text": {"sequence_length": 24, "shortest": 4},
    "objective": {"hidden_states": 1.0},
    "embeddings": {"subvector": 4},
    "training": {
        "max_steps": 12,
        "per_device_train_batch_size": 4,
        "save_strategy": "steps",
        "save_steps": 3,
        "use_cpu": True,
    },
    "finetuning": {
        "sequence_length": 24,
        "training": {"max_steps": 12, "save_steps": 3, "use_cpu": True},
    },
}


def write_inputs(folder: Path) -> None:
    """Write a checkpoint, a recipe, a corpus, a labelled table and scored pairs below `folder`."""
    torch.manual_seed(0)
    words = ["".join(random.Random(n).choices("abcdefgh", k=3)) for n in range(60)]
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(special + words))}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    names = ("pad", "cls", "sep", "unk", "mask")
    tokens = {f"{name}_token": f"[{name.upper()}]" for name in names}
    PreTrainedTokenizerFast(tokenizer_object=raw, **tokens).save_pretrained(folder / "original")
    config = BertConfig(
        hidden_size=36,
        num_attention_heads=3,
        num_hidden_layers=2,
        intermediate_size=50,
        vocab_size=len(vocabulary),
        max_position_embeddings=40,
    )
    BertModel(config).save_pretrained(folder / "original")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    draw = random.Random(1)
    documents = [" ".join(draw.choices(words, k=40)) for _ in range(60)]
    (folder / "corpus.txt").write_text("\n\n".join(documents))
    rows = [f"{' '.join(draw.choices(words, k=6))},{number % 2}" for number in range(48)]
    (folder / "table.csv").write_text("\n".join(["text,label", *rows]))
    rows = [
        "\t".join([*(" ".join(draw.choices(words, k=6)) for _ in range(2)), str(number % 6)])
        for number in range(24)
    ]
    (folder / "pairs.tsv").write_text("\n".join(["sentence1\tsentence2\tscore", *rows]))
