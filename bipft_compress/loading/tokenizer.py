"""Tokenizers of checkpoints."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub.errors import HFValidationError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from bipft_compress.errors import CheckpointError, first_line
from bipft_compress.files import read_json

_FAULTS = (
    OSError, ValueError, TypeError, LookupError, AttributeError, ImportError, RuntimeError,
    HFValidationError,
)  # fmt: skip
"""What transformers raises for files it cannot make a tokenizer of."""


def load_tokenizer(
    checkpoint: str | Path, *, name: str | Path | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a hub name or local directory.

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
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
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
    return tokenizer


def _broken(checkpoint: str | Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"The tokenizer of {checkpoint} cannot be loaded ({first_line(error)}).")
