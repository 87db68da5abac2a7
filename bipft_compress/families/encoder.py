"""One view of every supported model: an encoder of blocks, and what lies around them."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from bipft_compress.errors import UnsupportedModelError
from bipft_compress.families.calls import check_calls
from bipft_compress.families.family import Family
from bipft_compress.families.table import FAMILIES
from bipft_compress.nn.block import Block
from bipft_compress.spec import BlockSpec, LinearSpec

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

GUIDE = "docs/families.md"
"""The page that teaches how to add a family."""


def get_module(root: nn.Module, path: str) -> nn.Module:
    """The module at a dotted `path` below `root`; raises AttributeError where there is none."""
    return root.get_submodule(path)


def set_module(root: nn.Module, path: str, module: nn.Module) -> None:
    """Put `module` at a dotted `path` below `root`, in place of what is there."""
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, module)


@dataclass(frozen=True)
class EncoderLayer:
    """A layer of transformers' model in which a block stands.

    Attributes:
        path: of the layer, from the model's root.
        spec: of its block.
    """

    path: str
    spec: BlockSpec

    @property
    def block(self) -> str:
        """Path of the block."""
        return f"{self.path}.block"

    @property
    def attention(self) -> str:
        """Path of the attention's arithmetic."""
        return f"{self.block}.attention.core"

    def linears(self) -> Iterator[tuple[str, LinearSpec]]:
        """Path and description of every linear layer of the block."""
        for linear in self.spec.linears():
            yield f"{self.block}.{linear.name}", linear


@dataclass(frozen=True)
class Encoder:
    """The parts of a model that matter here, by full module path from the model's root.

    Attributes:
        layers: those that hold a block, each once.
        calls: numbers of the layers in the order in which a forward pass calls them.
        word_embeddings: the table of word embeddings.
        embeddings_kept: all other tables of embeddings.
        pooler: the pooler's linear layer.
        readout: of a binary model: see `nn.Readout`.
        decoder: the output layer of a masked language model that is tied to the word embeddings.
        hidden_size: width of the hidden states.
    """

    layers: tuple[EncoderLayer, ...]
    calls: tuple[int, ...]
    word_embeddings: str
    embeddings_kept: tuple[str, ...]
    pooler: str | None
    readout: str | None
    decoder: str | None
    hidden_size: int

    def linears(self) -> Iterator[tuple[str, LinearSpec]]:
        """Path and description of every linear layer of all blocks."""
        for layer in self.layers:
            yield from layer.linears()


def check_supported(config: PretrainedConfig) -> Family:
    """The family of a configuration.

    Raises:
        UnsupportedModelError: an unknown architecture, a decoder, or cross-attention.
    """
    model_type = getattr(config, "model_type", None)
    if model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise UnsupportedModelError(
            f"Model type {model_type!r} is not supported; use an encoder of one of: {known}. "
            f"{GUIDE} says how to add one."
        )
    if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
        raise UnsupportedModelError(
            "This checkpoint is a decoder or has cross-attention (is_decoder or "
            "add_cross_attention in its config.json); only encoders can be made binary."
        )
    return FAMILIES[model_type]


def drop_pooler(model: PreTrainedModel) -> None:
    """Take away the pooler of a bare encoder, and say so in its configuration.

    Models with a head keep theirs, and so do those of classes that cannot do without.
    """
    bare: Any = model
    if bare.base_model is bare and "add_pooling_layer" in inspect.signature(type(bare)).parameters:
        bare.config.add_pooling_layer = False
        bare.pooler = None


def apply_pooling_layer(model: PreTrainedModel) -> None:
    """`drop_pooler` where the configuration says so, which transformers does not read."""
    if not getattr(model.config, "add_pooling_layer", True):
        drop_pooler(model)


def use_blocks(model: PreTrainedModel) -> Encoder:
    """Put a block into every encoder layer of `model`, in place; it computes what it did before.

    The layers of transformers' model stay as shells around their blocks: it finds the hidden
    states by their class.

    Args:
        model: in full precision; unchanged where its layers hold blocks already.

    Returns:
        The parts of the model.

    Raises:
        UnsupportedModelError: see `check_supported`; or modules are not where the family has them.
    """
    family, base = check_supported(model.config), _base(model)
    apply_pooling_layer(model)
    layers = _layers(base, family)
    if not all(hasattr(layer, "block") for _, layer in layers):
        blocks = [_read(family, layer, base) for _, layer in layers]
        for (_, layer), block in zip(layers, blocks, strict=True):
            for name in [name for name, _ in layer.named_children() if name not in family.keep]:
                delattr(layer, name)
            layer.block = block
            # No method: those of another class than the layer's cannot be pickled.
            layer.forward = partial(family.forward, layer)
        family.finish(base)
        if base._supports_sdpa:
            # Its masks are boolean, and none where there is no padding.
            model.config._attn_implementation = "sdpa"
        check_calls(model)
    return describe(model)


def teacher_of(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of a full-precision `model` with blocks, which shares its parameters."""
    shared = {id(parameter): parameter for parameter in model.parameters()}
    copied = copy.deepcopy(model, shared)
    use_blocks(copied)
    return copied


def describe(model: PreTrainedModel) -> Encoder:
    """Find the parts of a model, in full precision or binary.

    Raises:
        UnsupportedModelError: as for `use_blocks`.
    """
    family, base = check_supported(model.config), _base(model)
    prefix = "" if base is model else f"{model.base_model_prefix}."
    modules = _layers(base, family)
    if not modules:
        raise UnsupportedModelError(
            f"This {model.config.model_type} model has an unusual layout (it has no "
            f"{family.layer}); only the layout of transformers' own classes is supported."
        )
    layers = []
    for path, layer in modules:
        block = layer.block if hasattr(layer, "block") else _read(family, layer, base)
        layers.append(EncoderLayer(f"{prefix}{path}", block.spec))
    names = {id(module): name for name, module in base.named_modules()}
    words = names[id(base.get_input_embeddings())]
    inside = tuple(f"{path}." for path, _ in modules)
    others = [
        name
        for name, module in base.named_modules()
        if isinstance(module, nn.Embedding) and name != words and not name.startswith(inside)
    ]
    pooler = _pooler(base)
    return Encoder(
        layers=tuple(layers),
        calls=tuple(family.calls(model.config, len(layers))),
        word_embeddings=f"{prefix}{words}",
        embeddings_kept=tuple(
            f"{prefix}{name}" for name in others if not name.startswith(f"{words}.")
        ),
        pooler=None if pooler is None else f"{prefix}{pooler}",
        readout=f"{prefix}readout" if hasattr(base, "readout") else None,
        decoder=_tied_decoder(model),
        hidden_size=layers[0].spec.hidden,
    )


def head_parameters(model: PreTrainedModel) -> list[str]:
    """Names of parameters beside the backbone; what is tied to the backbone's is not among them.

    A bare encoder has none; a pooler belongs to the backbone.
    """
    # By identity: a shared parameter is named where it is met first, which may be the head.
    backbone = set(map(id, model.base_model.parameters()))
    return [name for name, own in model.named_parameters() if id(own) not in backbone]


def _base(model: PreTrainedModel) -> Any:
    return model.base_model


def _layers(base: nn.Module, family: Family) -> list[tuple[str, Any]]:
    return [
        (path, module)
        for path, module in base.named_modules()
        if type(module).__name__ == family.layer
    ]


def _read(family: Family, layer: nn.Module, base: nn.Module) -> Block:
    try:
        return family.read(layer, base)
    except (AttributeError, ValueError) as error:
        raise UnsupportedModelError(
            f"This {type(base).__name__} has an unusual layout ({error}); only the layout of "
            "transformers' own classes is supported."
        ) from None


def _pooler(base: Any) -> str | None:
    pooler = getattr(base, "pooler", None)
    if hasattr(pooler, "dense"):
        return "pooler.dense"
    return "pooler" if hasattr(pooler, "bias") else None


def _tied_decoder(model: PreTrainedModel) -> str | None:
    output: Any = model.get_output_embeddings()
    if output is None:
        return None
    words: Any = model.get_input_embeddings()
    names = {id(module): name for name, module in model.named_modules()}
    if isinstance(output, nn.Linear):
        tied = getattr(words, "weight", None) is output.weight
    else:
        # Of a binary model: it reads the table of words.
        tied = getattr(output, "_embedding", (None,))[0] is words
    return names[id(output)] if tied else None
