"""Tokenizers of checkpoints."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import HFValidationError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from bipft_compress.errors import CheckpointError, first_line
from bipft_compress.families import max_sequence_length
from bipft_compress.files import read_json
from bipft_compress.sources import split_revision

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FAULTS = (
    OSError, ValueError, TypeError, LookupError, AttributeError, ImportError, RuntimeError,
    HFValidationError,
)  # fmt: skip
"""What transformers raises for files it cannot make a tokenizer of."""


def load_tokenizer(
    checkpoint: str | Path, *, name: str | Path | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a hub name, also as ``name@revision``, or local directory.

    Args:
        checkpoint: where it is read.
        name: what errors call it, if not that.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    path, shown = Path(checkpoint), name or checkpoint
    if path.is_dir():
        for file in (path / "tokenizer.json", path / "tokenizer_config.json"):
            if file.is_file():
                read_json(file)
    source, revision = split_revision(checkpoint)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source, revision=revision, trust_remote_code=False
        )
    except _FAULTS as error:
        raise _broken(shown, error) from None
    except Exception as error:
        # The tokenizers library raises nothing more specific; subclasses are faults of programs.
        if type(error) is not Exception:
            raise
        raise _broken(shown, error) from None
    # Where there are no files, transformers makes up a tokenizer that knows no word.
    files = tokenizer.vocab_files_names.values()
    if path.is_dir() and not any((path / file).is_file() for file in files):
        raise CheckpointError(
            f"{shown} has no tokenizer (none of {', '.join(files)}): copy the files of the "
            "original there."
        )
    longest = tokenizer.model_max_length
    if type(longest) not in (int, float) or not longest > 0:
        raise CheckpointError(
            f"The tokenizer of {shown} has model_max_length = {longest!r}, which is no number of "
            "tokens: correct its tokenizer_config.json."
        )
    return tokenizer


def fit_tokenizer(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, checkpoint: str | Path
) -> None:
    """Let a tokenizer give what a model takes: its inputs, and no more tokens than its positions.

    Raises:
        CheckpointError: it knows words that the model has no embedding of.
    """
    table: Any = model.get_input_embeddings()
    rows = len(table.weight)
    entries = max(tokenizer.get_vocab().values(), default=-1) + 1
    if entries > rows:
        raise CheckpointError(
            f"The tokenizer of {checkpoint} has {entries:,} entries, and the model embeddings of "
            f"{rows:,}: give it the tokenizer it was trained with, or call "
            f"model.resize_token_embeddings({entries}) and save both again."
        )
    taken = inspect.signature(type(model.base_model).forward).parameters
    names = [name for name in tokenizer.model_input_names if name in taken]
    if names != tokenizer.model_input_names:
        tokenizer.model_input_names = names
        tokenizer.init_kwargs["model_input_names"] = names
    longest = max_sequence_length(model.config)
    tokenizer.model_max_length = min(tokenizer.model_max_length, longest)


def _broken(checkpoint: str | Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"The tokenizer of {checkpoint} cannot be loaded ({first_line(error)}).")
