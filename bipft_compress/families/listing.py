"""What is binary in each family and what is not, read from blocks of its usual configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import transformers
from transformers import AutoModel

from bipft_compress.families.encoder import describe
from bipft_compress.families.table import FAMILIES
from bipft_compress.spec import BlockSpec

_DISENTANGLED = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
_USUAL: dict[str, dict[str, Any]] = {"deberta": _DISENTANGLED, "deberta-v2": _DISENTANGLED}
"""Where the defaults of a configuration are not what its checkpoints have."""


@dataclass(frozen=True)
class Listed:
    """A family as `bipft-compress families` shows it.

    Attributes:
        model_type: as in ``config.json``.
        block: what its layers are like, where they are not like BERT's.
        note: what stays in full precision and would not be expected to.
    """

    model_type: str
    block: str
    note: str


def list_families() -> list[Listed]:
    """Every family in the order of the table."""
    return [
        Listed(name, describe_blocks(_usual_blocks(name)), family.note)
        for name, family in FAMILIES.items()
    ]


def _usual_blocks(model_type: str) -> list[BlockSpec]:
    """The blocks of a model of this type as its checkpoints have them."""
    config = transformers.CONFIG_MAPPING[model_type](**_USUAL.get(model_type, {}))
    with torch.device("meta"):
        model = AutoModel.from_config(config, attn_implementation="eager")
    return [layer.spec for layer in describe(model).layers]


def describe_blocks(specs: Sequence[BlockSpec]) -> str:
    """What sets blocks apart from BERT's, in words; not all of them need have all of it."""
    return ", ".join(dict.fromkeys(chain.from_iterable(map(_differences, specs))))


def _differences(spec: BlockSpec) -> list[str]:
    attention, networks = spec.attention, spec.feed_forward
    traits = []
    if attention.norm_first:
        traits.append("norms first")
    if attention.norm is not None and attention.norm.kind != "layer":
        traits.append({"rms": "RMSNorm", "affine": "no normalisation"}[attention.norm.kind])
    if attention.key_value_heads != attention.heads:
        traits.append(f"{attention.heads // attention.key_value_heads} heads share keys and values")
    if attention.rotary is not None:
        traits.append("rotary positions")
    if attention.position_bias:
        traits.append("a bias for each distance")
    if attention.relative is not None:
        traits.append("disentangled positions")
    if attention.window is not None:
        traits.append(f"a window of {attention.window} tokens to either side")
    if networks[0].gated:
        traits.append("gated feed-forward network")
    if len(networks) > 1:
        traits.append(f"{len(networks)} feed-forward networks")
    if spec.bottleneck is not None:
        traits.append("bottlenecks")
    return traits
