"""Names of version 0.1, which had no blocks: a layer kept the modules of transformers' class."""

from __future__ import annotations

import re
from collections.abc import Iterable

from bipft_compress.errors import CheckpointError

VERSION = 1
"""What version 0.1 wrote into its records and packed artefacts as their format version."""

_BERT = {
    "attention.self.query": "attention.query",
    "attention.self.key": "attention.key",
    "attention.self.value": "attention.value",
    "attention.self.binary_attention": "attention.core",
    "attention.output.dense": "attention.output",
    "attention.output.LayerNorm": "attention.norm",
    "intermediate.dense": "feed_forward.0.up",
    "output.dense": "feed_forward.0.down",
    "output.LayerNorm": "feed_forward.0.norm",
}
_DISTILBERT = {
    "attention.q_lin": "attention.query",
    "attention.k_lin": "attention.key",
    "attention.v_lin": "attention.value",
    "attention.binary_attention": "attention.core",
    "attention.out_lin": "attention.output",
    "sa_layer_norm": "attention.norm",
    "ffn.lin1": "feed_forward.0.up",
    "ffn.lin2": "feed_forward.0.down",
    "output_layer_norm": "feed_forward.0.norm",
}
_RENAMED = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "electra"), _BERT),
    "distilbert": _DISTILBERT,
}
"""Model type to old and new paths below a layer."""

_LAYER = re.compile(r"(?P<layer>(?:\w+\.)?(?:encoder|transformer)\.layer\.\d+)\.(?P<rest>.+)")


def rename_0_1(names: Iterable[str], model_type: str) -> dict[str, str]:
    """Names of version 0.1 to those of this one.

    Args:
        names: of tensors or modules, of a training checkpoint or a packed artefact; those that
            did not change, and new ones, stay as they are.
        model_type: of the configuration.

    Raises:
        CheckpointError: version 0.1 had no such model type.
    """
    if model_type not in _RENAMED:
        raise CheckpointError(
            f"The checkpoint says it is of version 0.1, which had no model type {model_type!r}: "
            "compress it again."
        )
    return {name: _renamed(name, _RENAMED[model_type]) for name in names}


def _renamed(name: str, paths: dict[str, str]) -> str:
    match = _LAYER.fullmatch(name)
    if match is None:
        return name
    layer, rest = match["layer"], match["rest"]
    for old, new in paths.items():
        if rest == old or rest.startswith(f"{old}."):
            return f"{layer}.block.{new}{rest.removeprefix(old)}"
    return name
