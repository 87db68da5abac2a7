"""Families whose model hands rotary positions to its layers: NomicBERT, EuroBERT, RoFormer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bipft_compress.families import bert
from bipft_compress.families.family import Family, attention_spec, feed_forward_spec
from bipft_compress.nn.block import Block
from bipft_compress.spec import BlockSpec, RotarySpec


def rotary_spec(parameters: dict[str, Any]) -> RotarySpec:
    """From the ``rope_parameters`` of a configuration."""
    plain = parameters.get("rope_type", "default") == "default"
    return RotarySpec("halves", parameters["rope_theta"] if plain else None)


def forward(
    self: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    **_: Any,
) -> Tensor:
    """The layer's ``forward``: positions are given as cosines and sines."""
    hidden: Tensor = self.block(hidden_states, mask=attention_mask, rotary=position_embeddings)
    return hidden


def read(layer: Any, base: Any, norms: tuple[str, str], *, norm_first: bool) -> Block:
    """A block of one layer of NomicBERT or EuroBERT.

    Args:
        layer: of transformers' model.
        base: the base model.
        norms: names of the norms of attention and feed-forward network.
        norm_first: norms stand before the inputs.
    """
    own, mlp, config = layer.self_attn, layer.mlp, base.config
    attention_norm, output_norm = (layer.get_submodule(name) for name in norms)
    attention = attention_spec(
        own.q_proj,
        own.k_proj,
        own.v_proj,
        own.o_proj,
        config.num_attention_heads,
        attention_norm,
        norm_first=norm_first,
        rotary=rotary_spec(config.rope_parameters),
    )
    feed_forward = feed_forward_spec(
        mlp.up_proj,
        mlp.down_proj,
        config.hidden_act,
        output_norm,
        gated=True,
        norm_first=norm_first,
    )
    return Block.build(
        BlockSpec(attention.width, attention, (feed_forward,)),
        {
            "attention.query": own.q_proj,
            "attention.key": own.k_proj,
            "attention.value": own.v_proj,
            "attention.output": own.o_proj,
            "attention.norm": attention_norm,
            "feed_forward.0.up": mlp.up_proj,
            "feed_forward.0.gate": mlp.gate_proj,
            "feed_forward.0.down": mlp.down_proj,
            "feed_forward.0.norm": output_norm,
        },
    )


def read_nomic(layer: Any, base: Any) -> Block:
    """A block of one layer of NomicBERT."""
    norms = "post_attention_layernorm", "post_mlp_layernorm"
    return read(layer, base, norms, norm_first=False)


def read_euro(layer: Any, base: Any) -> Block:
    """A block of one layer of EuroBERT."""
    return read(layer, base, ("input_layernorm", "post_attention_layernorm"), norm_first=True)


def read_roformer(layer: Any, base: Any) -> Block:
    """A block of one layer of RoFormer, whose pairs are neighbours."""
    spec = RotarySpec("neighbours", 10_000.0, bool(base.config.rotary_value))
    return bert.read(layer, base, rotary=spec)


def forward_roformer(
    self: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    sinusoidal_pos: Tensor | None = None,
    *_: Any,
    **__: Any,
) -> tuple[Tensor]:
    """The layer's ``forward``: sines and cosines lie side by side, once a pair."""
    assert sinusoidal_pos is not None
    sin, cos = (half[0].repeat_interleave(2, -1) for half in sinusoidal_pos.chunk(2, -1))
    return (self.block(hidden_states, mask=attention_mask, rotary=(cos, sin)),)


class SinusoidalPositions(nn.Module):
    """RoFormer's table of sines and cosines: it follows from the configuration, so it is not
    stored.

    Args:
        positions: rows.
        width: of a head.
    """

    def __init__(self, positions: int, width: int) -> None:
        super().__init__()
        exponent = torch.arange(0, width, 2, dtype=torch.float64) / width
        angles = torch.arange(positions, dtype=torch.float64)[:, None] / 10_000**exponent
        table = torch.cat([angles.sin(), angles.cos()], 1).float()
        self.weight: Tensor
        self.register_buffer("weight", table, persistent=False)

    def forward(
        self, shape: torch.Size, cache_length: int = 0, position_ids: Tensor | None = None
    ) -> Tensor:
        """Rows of the first ``shape[1]`` positions, (length, width)."""
        return self.weight[cache_length : cache_length + shape[1]]


def finish_roformer(base: Any) -> None:
    """The table of positions follows from the configuration."""
    rows, width = base.encoder.embed_positions.weight.shape
    with torch.device("cpu"):
        positions = SinusoidalPositions(rows, width)
    base.encoder.embed_positions = positions.to(
        base.device if base.device.type != "meta" else "cpu"
    )


FAMILIES = {
    "nomic_bert": Family("NomicBertLayer", read_nomic, forward),
    "eurobert": Family("EuroBertDecoderLayer", read_euro, forward),
    "roformer": Family("RoFormerLayer", read_roformer, forward_roformer, finish=finish_roformer),
}
