"""X-MOD: BERT's layer with an adapter for each language, which stays in full precision."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from bipft_compress.families.bert import read as read_bert
from bipft_compress.families.family import Family
from bipft_compress.nn.block import Block


def read(layer: Any, base: Any) -> Block:
    """A block of one layer, up to the adapters."""
    before = base.config.pre_norm
    return read_bert(layer, base, norm_first=before, norm_last=before)


def forward(
    self: Any,
    hidden_states: Tensor,
    lang_ids: Tensor,
    attention_mask: Tensor | None = None,
    *_: Any,
    **__: Any,
) -> Tensor:
    """The layer's ``forward``: the adapters stand between the last sum and its norm."""
    hidden: Tensor = self.block(hidden_states, mask=attention_mask)
    hidden = self.output.lang_adapter(lang_ids, hidden)
    return hidden if self.pre_norm else self.output.LayerNorm(hidden)


def finish(base: Any) -> None:
    """What the block has taken over goes from the module that keeps the adapters."""
    for layer in base.encoder.layer:
        del layer.output.dense
        if layer.pre_norm and not layer.output.adapter_reuse_layer_norm:
            del layer.output.LayerNorm


FAMILIES = {
    "xmod": Family(
        "XmodLayer",
        read,
        forward,
        keep=("output",),
        finish=finish,
        positions_after_padding=True,
        note="the adapters of languages stay in full precision",
    )
}
