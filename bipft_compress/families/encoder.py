"""One view of every supported model: an encoder with named parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

from torch import nn

from bipft_compress.errors import UnsupportedModelError
from bipft_compress.families.table import FAMILIES, POSITIONS_AFTER_PADDING, Family

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

LINEAR_KINDS = ("query", "key", "value", "attention_output", "ffn_up", "ffn_down")
"""The kinds of linear layer in an encoder layer, in the order in which data flows."""


def get_module(root: nn.Module, path: str) -> nn.Module:
    """The module at a dotted `path` below `root`; raises AttributeError where there is none."""
    return root.get_submodule(path)


def set_module(root: nn.Module, path: str, module: nn.Module) -> None:
    """Put `module` at a dotted `path` below `root`, in place of what is there."""
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, module)


@dataclass(frozen=True)
class EncoderLayer:
    """One layer: full module paths from the model's root."""

    path: str
    attention: str
    linears: dict[str, str]
    """Kind (one of `LINEAR_KINDS`) to path."""
    attention_norm: str
    output_norm: str


@dataclass(frozen=True)
class Encoder:
    """The parts of a model that matter here, by full module path from the model's root."""

    layers: tuple[EncoderLayer, ...]
    word_embeddings: str
    embeddings_kept: tuple[str, ...]
    pooler: str | None
    decoder: str | None
    """The masked-language-model output layer tied to the word embeddings, where there is one."""
    heads: int
    head_dim: int
    hidden_size: int
    activation: str
    """Between the two ffn linears; a name of transformers' ``ACT2FN``."""

    def linears(self) -> Iterator[tuple[int, str, str]]:
        """Layer number, kind and path of every linear layer of the encoder layers."""
        for index, layer in enumerate(self.layers):
            for kind, path in layer.linears.items():
                yield index, kind, path


def check_supported(config: PretrainedConfig) -> Family:
    """The family of a configuration.

    Raises:
        UnsupportedModelError: an unknown architecture, a decoder, or cross-attention.
    """
    model_type = getattr(config, "model_type", None)
    if model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise UnsupportedModelError(
            f"Model type {model_type!r} is not supported; use an encoder of one of: {known}."
        )
    if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
        raise UnsupportedModelError(
            "This checkpoint is a decoder or has cross-attention (is_decoder or "
            "add_cross_attention in its config.json); only encoders can be made binary."
        )
    return FAMILIES[model_type]


def max_sequence_length(config: PretrainedConfig) -> int:
    """Longest sequence, in tokens, that a model's position embeddings allow."""
    # The positions of RoBERTa and its kin begin after the padding index.
    offset = config.pad_token_id + 1 if config.model_type in POSITIONS_AFTER_PADDING else 0
    return int(config.max_position_embeddings) - offset


def describe(model: PreTrainedModel) -> Encoder:
    """Find the parts of a full-precision or binary model.

    Raises:
        UnsupportedModelError: see `check_supported`; or modules are not where the family has them.
    """
    family = check_supported(model.config)
    base = model.base_model
    prefix = "" if base is model else f"{model.base_model_prefix}."
    layers = []
    try:
        count = len(get_module(base, family.layers))  # type: ignore[arg-type]
        for index in range(count):
            path = f"{prefix}{family.layers}.{index}"
            linears = {kind: f"{path}.{getattr(family, kind)}" for kind in LINEAR_KINDS}
            layer = EncoderLayer(
                path=path,
                attention=f"{path}.{family.attention}",
                linears=linears,
                attention_norm=f"{path}.{family.attention_norm}",
                output_norm=f"{path}.{family.output_norm}",
            )
            for part in (*linears.values(), layer.attention_norm, layer.output_norm):
                get_module(model, part)
            layers.append(layer)
        get_module(base, family.word_embeddings)
    except AttributeError as error:
        raise UnsupportedModelError(
            f"This {model.config.model_type} model has an unusual layout ({error}); "
            "only the layout of transformers' own classes is supported."
        ) from None
    heads = model.config.num_attention_heads
    # Head size from the weights, not the configuration: some families let the two differ.
    width = reduce(getattr, family.query.split("."), get_module(base, f"{family.layers}.0"))
    return Encoder(
        layers=tuple(layers),
        word_embeddings=f"{prefix}{family.word_embeddings}",
        embeddings_kept=tuple(
            f"{prefix}{path}" for path in family.embeddings_kept if _has(base, path)
        ),
        pooler=f"{prefix}{family.pooler}" if _has(base, family.pooler) else None,
        decoder=_tied_decoder(model),
        heads=heads,
        head_dim=width.out_features // heads,
        hidden_size=model.config.hidden_size,
        activation=str(getattr(model.config, family.activation)),
    )


def head_parameters(model: PreTrainedModel) -> list[str]:
    """Names of parameters beside the backbone; what is tied to the backbone's is not among them.

    A bare encoder has none; a pooler belongs to the backbone.
    """
    # By identity: a shared parameter is named where it is met first, which may be the head.
    backbone = set(map(id, model.base_model.parameters()))
    return [name for name, own in model.named_parameters() if id(own) not in backbone]


def _has(root: nn.Module, path: str) -> bool:
    try:
        return get_module(root, path) is not None
    except AttributeError:
        return False


def _tied_decoder(model: PreTrainedModel) -> str | None:
    output = model.get_output_embeddings()
    if output is None or not getattr(model.config, "tie_word_embeddings", True):
        return None
    names: dict[nn.Module, str] = {module: name for name, module in model.named_modules()}
    return names[output]
