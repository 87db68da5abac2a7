"""Documents to token sequences: sentences or packed chunks, cached, and batches of them."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import datasets
import torch
from datasets.exceptions import DatasetGenerationError
from torch import Tensor
from torch.utils.data import Sampler
from transformers import PreTrainedTokenizerBase

from bipft_compress.errors import CorpusError, OutputError
from bipft_compress.recipe import Text
from bipft_compress.text.corpus import corpus_fingerprint, read_documents

_T = TypeVar("_T")

_FORMAT = 1  # part of the cache's key: raise it when the same input gives other sequences
_DOCUMENTS_AT_A_TIME = 64
_POOL = 50  # batches that are sorted by length together
_FALLBACK_MASS = 0.05  # of a token distribution, for the words its text does not have
_FEATURES = datasets.Features(
    {"input_ids": datasets.List(datasets.Value("int32")), "length": datasets.Value("int32")}
)

# A run of stops counts from its first one only: dot leaders must not cost quadratic time.
_BOUNDARY = re.compile(
    r"(?<![.!?…])(?P<stop>[.!?…]+)[\"'”\u2019»)\]]*(?:\s+|$)"
    r"|[。\uff01\uff1f]+[」』”\u2019\uff09]*"  # full-width ! ? and bracket
    r"|\n\s*"
)
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n")
_LAST_WORD = re.compile(r"[^\s(\[\"'“\u2018«]*$")
# A dot after these ends no sentence: an initial or letters with dots between (U.S., z.B.), a day
# as in "3. Mai", and abbreviations that stand before their word ("etc." may well end a sentence).
_ABBREVIATION = re.compile(
    r"[^\W\d_](?:\.[^\W\d_])*|\d{1,2}"
    r"|(?i:mrs?|ms|dr|prof|st|[sj]r|gen|col|capt|lt|sgt|rev|hon|gov|sen|vs|cf|figs?|eqs?|nos|vols?"
    r"|pp|eds|al|approx|viz|resp"
    r"|abb|bzw|dipl|evtl|ggf|hr|ing|nr|vgl|mme|mlle|sra|srta|dott|avv|dhr|mevr)"
)


def split_sentences(text: str) -> list[str]:
    """Sentences of `text`, stripped, none of them blank.

    Splits after `. ! ? …` and a space, after their full-width kin, and at line ends; not after
    abbreviations and initials, nor before a lower-case letter (a wrapped line is joined again).
    Meant for European languages, Chinese and Japanese.
    """
    sentences = []
    start = 0
    for boundary in _BOUNDARY.finditer(text):
        following = text[boundary.end() : boundary.end() + 1]
        joined = following.islower() or _is_abbreviation(text, start, boundary)
        if joined and not _BLANK_LINE.search(boundary[0]):
            continue
        sentences.append(" ".join(text[start : boundary.end()].split()))
        start = boundary.end()
    sentences.append(" ".join(text[start:].split()))
    return [sentence for sentence in sentences if sentence]


def _is_abbreviation(text: str, start: int, boundary: re.Match[str]) -> bool:
    if boundary["stop"] != ".":
        return False
    match = _LAST_WORD.search(text, max(start, boundary.start() - 20), boundary.start())
    word = match[0] if match else ""
    return _ABBREVIATION.fullmatch(word) is not None


def token_sequences(
    documents: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    text: Text,
    limit: int | None = None,
) -> Iterator[list[int]]:
    """Token sequences with special tokens, lazily, in the order of the text.

    A special token written out in a document ("[MASK]", "</s>") is read as plain text.

    Args:
        documents: text; sentences and chunks never span two of them.
        tokenizer: fast or slow; its settings are left as they were.
        text: unit "sentences" cuts a sentence of more than `sequence_length` tokens off, or with
            overlong "skip" leaves it out; unit "packed" spreads a document over as many sequences
            as it takes. Either leaves out sequences of less than `shortest` tokens, specials
            included, and the sequence that reaches `max_tokens` is the last.
        limit: most sequences to give.
    """
    unit = _packed if text.unit == "packed" else _sentences
    batches = _chunks(documents, _DOCUMENTS_AT_A_TIME)
    sequences = chain.from_iterable(unit(batch, tokenizer, text) for batch in batches)
    kept = (sequence for sequence in sequences if len(sequence) >= text.shortest)
    total = 0
    for sequence in islice(kept, limit):
        yield sequence
        total += len(sequence)
        if text.max_tokens is not None and total >= text.max_tokens:
            return


@contextmanager
def _settings_kept(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Cut from the right, read special tokens as text, and leave the tokenizer as it was.

    A fast tokenizer keeps the truncation of its last call, and would be saved with it.
    """
    side, split = tokenizer.truncation_side, tokenizer.split_special_tokens
    backend = tokenizer.backend_tokenizer if tokenizer.is_fast else None
    truncation, padding = (backend.truncation, backend.padding) if backend else (None, None)
    try:
        tokenizer.truncation_side, tokenizer.split_special_tokens = "right", True
        yield
    finally:
        tokenizer.truncation_side, tokenizer.split_special_tokens = side, split
        if backend:
            backend.encode_special_tokens = split
            backend.enable_truncation(**truncation) if truncation else backend.no_truncation()
            backend.enable_padding(**padding) if padding else backend.no_padding()


def _sentences(
    documents: list[str], tokenizer: PreTrainedTokenizerBase, text: Text
) -> list[list[int]]:
    sentences = [sentence for document in documents for sentence in split_sentences(document)]
    if not sentences:
        return []
    skip = text.overlong == "skip"
    with _settings_kept(tokenizer):
        ids: list[list[int]] = tokenizer(
            # A token more tells which sentences are too long.
            sentences,
            truncation=True,
            max_length=text.sequence_length + skip,
            padding=False,
        )["input_ids"]
    return [sequence for sequence in ids if len(sequence) <= text.sequence_length]


def _packed(
    documents: list[str], tokenizer: PreTrainedTokenizerBase, text: Text
) -> list[list[int]]:
    length = text.sequence_length
    if tokenizer.is_fast:
        with _settings_kept(tokenizer):
            ids: list[list[int]] = tokenizer(
                documents,
                truncation=True,
                max_length=length,
                return_overflowing_tokens=True,
                padding=False,
            )["input_ids"]
        return ids
    # A slow tokenizer returns what overflows in another form, but can add special tokens itself.
    room = length - tokenizer.num_special_tokens_to_add()
    with _settings_kept(tokenizer):
        whole = tokenizer(documents, add_special_tokens=False, padding=False, verbose=False)
    return [
        tokenizer.build_inputs_with_special_tokens(document[start : start + room])
        for document in whole["input_ids"]
        for start in range(0, len(document), room)
    ]


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
    # What the last call happened to leave; it does not matter to ours.
    state["truncation"] = state["padding"] = None
    return json.dumps(state, sort_keys=True)


class LengthBatchSampler(Sampler[int]):
    """Shuffled indices of which every consecutive `batch_size` have about the same length.

    Each epoch shuffles the sequences, sorts pools of 50 batches by length, and shuffles the
    batches; an incomplete batch comes last and nothing is dropped. The order depends on `seed`
    and `epoch` alone.

    Args:
        lengths: tokens of each sequence.
        batch_size: sequences of a batch.
        seed: of the shuffling.
    """

    def __init__(self, lengths: Sequence[int] | Tensor, batch_size: int, seed: int = 0) -> None:
        self._lengths = torch.as_tensor(lengths, dtype=torch.int64)
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        # Mixed by a hash, so that (seed 0, epoch 1) and (seed 1, epoch 0) differ.
        mixed = hashlib.sha256(f"{self._seed},{self._epoch}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(mixed[:7]))
        order = torch.randperm(len(self), generator=generator)
        batches: list[Tensor] = []
        for pool in torch.split(order, _POOL * self._batch_size):
            by_length = pool[self._lengths[pool].argsort(stable=True)]
            batches.extend(torch.split(by_length, self._batch_size))
        full = len(self) // self._batch_size  # at most the last batch is not full
        shuffled = torch.randperm(full, generator=generator).tolist()
        for number in chain(shuffled, range(full, len(batches))):
            yield from batches[number].tolist()


def calibration_batches(sequences: Iterable[list[int]], batch_tokens: int) -> list[Tensor]:
    """Sequences of equal length together, so that no batch has padding.

    Args:
        sequences: token ids.
        batch_tokens: most tokens of a batch; a single sequence may have more.

    Returns:
        int64 tensors (sequences, length), the shortest sequences first.
    """
    by_length: defaultdict[int, list[list[int]]] = defaultdict(list)
    for sequence in sequences:
        by_length[len(sequence)].append(sequence)
    by_length.pop(0, None)
    return [
        torch.tensor(batch, dtype=torch.int64)
        for length, group in sorted(by_length.items())
        for batch in _chunks(group, max(1, batch_tokens // length))
    ]


def token_frequencies(sequences: Iterable[Sequence[int]], vocab_size: int) -> Tensor:
    """How often each token occurs, relative to all.

    Words that the sequences lack would have no frequency, so 5 % of the mass follows Zipf's law,
    1 / (id + 100), over the ids: most vocabularies are ordered by frequency. Without any sequence
    that law is all there is.

    Args:
        sequences: token ids, each below `vocab_size`.
        vocab_size: tokens of the vocabulary.

    Returns:
        float64 (vocab_size,), positive, of sum 1.
    """
    law = 1.0 / (torch.arange(vocab_size, dtype=torch.float64) + 100.0)
    law /= law.sum()
    counts = torch.zeros(vocab_size, dtype=torch.int64)
    for batch in _chunks(sequences, 4096):
        ids = torch.tensor(list(chain.from_iterable(batch)), dtype=torch.int64)
        counts += torch.bincount(ids, minlength=vocab_size)
    if not counts.any():
        return law
    return (1.0 - _FALLBACK_MASS) * (counts / counts.sum().double()) + _FALLBACK_MASS * law


def _chunks(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
