"""What the model card of an original says of it, for the card of what is made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.repocard import metadata_load

from bipft_compress.errors import CheckpointError
from bipft_compress.loading.hub import find_file

CARD = "README.md"
_KEPT = ("license", "license_name", "license_link", "language", "pipeline_tag")


def read_card(checkpoint: str | Path) -> dict[str, Any]:
    """Licence, language and task of a checkpoint, as the head of its ``README.md`` names them.

    Args:
        checkpoint: hub name, also as ``name@revision``, or local directory.

    Returns:
        Those that are there, by the hub's names for them; a card that cannot be read is none.
    """
    try:
        path = find_file(checkpoint, CARD)
        values = metadata_load(path) if path is not None else None
    except (CheckpointError, OSError, ValueError, yaml.YAMLError):
        values = None
    return {key: values[key] for key in _KEPT if values and values.get(key)}
