"""The token sequences of a corpus as a data set, tokenised once and cached on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetGenerationError
from transformers import PreTrainedTokenizerBase

from bipft_compress.errors import CorpusError, OutputError
from bipft_compress.recipe import Text
from bipft_compress.text.corpus import corpus_fingerprint, read_documents
from bipft_compress.text.sequences import token_sequences

_FORMAT = 1  # part of the cache's key: raise it when the same input gives other sequences
_FEATURES = datasets.Features(
    {"input_ids": datasets.List(datasets.Value("int32")), "length": datasets.Value("int32")}
)


def build_dataset(
    source: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    text: Text,
    *,
    limit: int | None = None,
    cache_dir: str | Path | None = None,
) -> datasets.Dataset:
    """Tokenise a corpus once: a memory-mapped data set of its sequences, cached on disk.

    Args:
        source: see `read_documents`.
        tokenizer: of the model to train.
        text: how text becomes sequences.
        limit: most sequences to keep.
        cache_dir: where data sets are kept; default is a folder in that of `datasets`.

    Returns:
        Columns `input_ids` (list of int32) and `length` (int32, in tokens).

    Raises:
        CorpusError: see `read_documents`, or no sequence is left.
        OutputError: the cache cannot be written.
    """
    parts = [_FORMAT, corpus_fingerprint(source), _tokenizer_state(tokenizer), limit]
    key = hashlib.sha256(json.dumps([*parts, text.model_dump()]).encode()).hexdigest()[:32]
    folder = Path(cache_dir or Path(datasets.config.HF_DATASETS_CACHE) / "bipft_compress")

    def records() -> Iterator[dict[str, Any]]:
        empty = True
        for ids in token_sequences(read_documents(source), tokenizer, text, limit):
            empty = False
            yield {"input_ids": ids, "length": len(ids)}
        if empty:
            raise CorpusError(
                f"The corpus {source} holds no sequence of at least {text.shortest} tokens; give "
                "more text or lower text.shortest in the recipe."
            )

    try:
        # The builder writes to a folder of its own and renames it when complete, under a lock.
        return datasets.Dataset.from_generator(
            records, features=_FEATURES, cache_dir=str(folder), fingerprint=key
        )
    except (DatasetGenerationError, OSError) as error:
        cause = error.__cause__ if isinstance(error, DatasetGenerationError) else error
        if isinstance(cause, CorpusError):
            raise cause from None
        if isinstance(cause, OSError):
            raise OutputError(
                f"The cache of token sequences in {folder} cannot be written "
                f"({cause.strerror or cause}); make room there or set HF_DATASETS_CACHE to another "
                "directory."
            ) from error
        raise


def _tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> str:
    if not tokenizer.is_fast:
        kind = [type(tokenizer).__name__, str(tokenizer.init_kwargs)]
        return json.dumps([*kind, tokenizer.get_vocab()], sort_keys=True)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    # Settings that the last call left behind; they do not change the sequences made here.
    state["truncation"] = state["padding"] = None
    return json.dumps(state, sort_keys=True)
