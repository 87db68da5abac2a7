"""Files that a record lists: they are checked, and no other file of the directory is read."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from bipft_compress.checkpoint.record import OLDEST_VERSION, RECORD, Record, read_version
from bipft_compress.errors import CheckpointError
from bipft_compress.loading import SentencePipeline, load_config, load_tokenizer, read_pipeline
from bipft_compress.loading.sentence import MODULES

CONFIG = "config.json"


def read_config(directory: Path, record: Record) -> PretrainedConfig:
    """The configuration of a binary checkpoint, after a check of all that its record lists.

    Raises:
        CheckpointError: see `load_config`; or a file is missing or was changed.
    """
    with _listed(directory, record) as listed:
        config = load_config(listed, name=directory)
    config.name_or_path = str(directory)
    return config


def read_tokenizer(directory: Path, record: Record) -> PreTrainedTokenizerBase:
    """The tokenizer of a binary checkpoint, after a check of all that its record lists.

    Raises:
        CheckpointError: see `load_tokenizer`; or a file is missing or was changed.
    """
    with _listed(directory, record) as listed:
        tokenizer = load_tokenizer(listed, name=directory)
    tokenizer.name_or_path = str(directory)
    return tokenizer


def read_listed_pipeline(directory: Path, record: Record) -> SentencePipeline | None:
    """What sentence-transformers does around the encoder, after a check of all that is listed.

    Raises:
        CheckpointError: see `read_pipeline`; or a file is missing or was changed.
    """
    if record.files and MODULES not in record.files:
        return None
    with _listed(directory, record) as listed:
        return read_pipeline(listed)


def check_config(directory: Path, record: Record) -> None:
    """Hold the configuration in `directory` against what its record lists, if it does.

    Raises:
        CheckpointError: it is missing or was changed.
    """
    listed = {name: checksum for name, checksum in record.files.items() if name == CONFIG}
    for _ in _checked(directory, listed):
        pass


@contextmanager
def _listed(directory: Path, record: Record) -> Iterator[Path]:
    """A directory that holds what is listed and nothing else, so that transformers reads no more.

    Each file is read once: what was checked is what is used.
    """
    if not record.files and (
        # Version 0.1 listed the files of packed artefacts alone, and what transformers writes
        # beside the weights it writes after the record in them.
        read_version(directory) == OLDEST_VERSION or not (directory / RECORD).is_file()
    ):
        yield directory
        return
    if CONFIG not in record.files:
        raise CheckpointError(
            f"{directory / RECORD} has no checksums: make the checkpoint again with this release."
        )
    with tempfile.TemporaryDirectory(prefix="bipft-compress-") as folder:
        for name, content in _checked(directory, record.files):
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        yield Path(folder)


def _checked(directory: Path, files: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    for name, checksum in files.items():
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\0" in name:
            raise CheckpointError(f"{directory / RECORD} lists {name!r}, which lies elsewhere.")
        path = directory / name
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise CheckpointError(
                f"{directory} has no {name}: the checkpoint is incomplete."
            ) from None
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read ({error.strerror}).") from None
        if hashlib.sha256(content).hexdigest() != checksum:
            raise CheckpointError(f"{path} does not match its checksum: it was changed.")
        yield name, content
