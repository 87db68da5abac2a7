"""Full-precision checkpoints in, from the hub or a directory; and a model's state as a file.

Knows nothing of binarization. Nothing that is read can run code.
"""

from bipft_compress.loading.card import read_card
from bipft_compress.loading.claims import configuration_faults
from bipft_compress.loading.configuration import load_config, model_from_config
from bipft_compress.loading.pretrained import load_pretrained
from bipft_compress.loading.sentence import (
    SentencePipeline,
    encoder_source,
    pool_of,
    read_pipeline,
)
from bipft_compress.loading.state import load_state, state_to_save
from bipft_compress.loading.tokenizer import load_tokenizer

__all__ = [
    "SentencePipeline",
    "configuration_faults",
    "encoder_source",
    "load_config",
    "load_pretrained",
    "load_state",
    "load_tokenizer",
    "model_from_config",
    "pool_of",
    "read_card",
    "read_pipeline",
    "state_to_save",
]
