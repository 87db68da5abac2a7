"""Binary checkpoints of the hub: fetched whole into its cache, and read there like any other."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from bipft_compress.checkpoint.mark import KEY
from bipft_compress.checkpoint.record import RECORD
from bipft_compress.errors import CheckpointError, first_line
from bipft_compress.files import read_json
from bipft_compress.loading.checksums import FINE_TUNED, READ_SUFFIXES
from bipft_compress.loading.hub import find_file
from bipft_compress.plugin import METHOD
from bipft_compress.sources import check_source, is_path, split_revision

_ADAPTER = "adapter_config.json"


def local_directory(source: str | Path) -> Path:
    """Where a binary checkpoint or an adapter lies; fetched first where `source` is of the hub.

    Args:
        source: directory, or hub name, also as ``name@revision``. A name of anything else is
            returned as it is.

    Raises:
        CheckpointError: the hub has no such model, or does not answer.
    """
    path = Path(source)
    if path.exists() or is_path(source):
        return path
    check_source(source)
    if not _is_ours(source):
        return path
    name, revision = split_revision(source)
    try:
        patterns = [f"*{suffix}" for suffix in READ_SUFFIXES]
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise CheckpointError(f"{source} cannot be fetched ({first_line(error)}).") from None


def _is_ours(source: str | Path) -> bool:
    """Whether a model of the hub is of this package; any other is not fetched whole."""
    config = find_file(source, "config.json")
    values = None if config is None else read_json(config).get(KEY)
    if isinstance(values, dict) and values.get("quant_method") == METHOD:
        return True
    return any(find_file(source, name) is not None for name in (RECORD, FINE_TUNED, _ADAPTER))
