"""From packed tensors to a transformers model that runs on their bits."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import PretrainedConfig

from bipft_compress.families import Encoder, EncoderLayer, get_module, set_module
from bipft_compress.loading import model_from_config
from bipft_compress.nn import (
    BinaryAttention,
    BinaryLinear,
    Block,
    FrequencyAwareEmbedding,
    SignEmbedding,
)
from bipft_compress.recipe import Recipe
from bipft_compress.runtime.block import PackedBlock
from bipft_compress.runtime.embedding import (
    PackedDecoder,
    PackedEmbedding,
    PackedFrequencyAwareEmbedding,
    PackedRoundedEmbedding,
    PackedRoundedLinear,
    PackedSignEmbedding,
)
from bipft_compress.runtime.modules import PackedAttention, PackedLinear
from bipft_compress.storage.codec import packed_like
from bipft_compress.storage.plan import Storage, storage_plan
from bipft_compress.structure.swap import swap

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def empty_model(config: PretrainedConfig) -> PreTrainedModel:
    """A full-precision model of the class that `config` names, without numbers."""
    # Parameters on the meta device cost nothing; buffers follow from the configuration.
    with init_empty_weights(include_buffers=False):
        model = model_from_config(copy.deepcopy(config))
    model.tie_weights()
    return model


class Skeleton:
    """A binary model without numbers, and how the numbers of each of its tensors are stored.

    Args:
        model: full-precision, without numbers; made binary in place.
        recipe: what it is swapped with.
    """

    def __init__(self, model: PreTrainedModel, recipe: Recipe) -> None:
        self.model, self.recipe = model, recipe
        self.encoder: Encoder = swap(model, recipe)[0]
        self.plan: dict[str, Storage] = storage_plan(model, self.encoder, recipe)

    def expected(self) -> dict[str, Tensor]:
        """Empty tensors of the packed types and shapes, by stored name."""
        state = self.model.state_dict()
        return {
            storage.name: packed_like(storage, state[name].shape)
            for name, storage in self.plan.items()
        }

    def pack_empty(self) -> dict[str, str]:
        """Pack the model around empty tensors, for whoever fills it by name; see `finish`.

        Returns:
            Name in the packed model of each stored tensor, by its stored name.
        """
        expected = self.expected()
        stored = {id(tensor): name for name, tensor in expected.items()}
        self._pack(expected)
        own = {
            stored[id(tensor)]: name
            for name, tensor in self.model.named_buffers()
            if id(tensor) in stored
        }
        return {name: own.get(name, name) for name in expected}

    def fill(self, tensors: Mapping[str, Tensor]) -> PreTrainedModel:
        """The model, running on packed `tensors`; may be called once."""
        self._pack(tensors)
        self.model.requires_grad_(False).eval()
        finish(self.model)
        return self.model

    def _pack(self, tensors: Mapping[str, Tensor]) -> None:
        word = get_module(self.model, self.encoder.word_embeddings)
        _set_numbers(self.model, self.plan, tensors)
        for layer in self.encoder.layers:
            self._pack_block(layer, tensors)
        rounded = [*self.encoder.embeddings_kept, self.encoder.pooler]
        if self.encoder.readout is not None:
            importance = f"{self.encoder.readout}.importance"
            get_module(self.model, self.encoder.readout).importance = tensors[importance]
            rounded += [f"{self.encoder.readout}.down", f"{self.encoder.readout}.up"]
        for path in rounded:
            if path is not None and f"{path}.weight_scale" in tensors:
                module = get_module(self.model, path)
                set_module(self.model, path, _rounded(path, module, tensors))
        if isinstance(word, (SignEmbedding, FrequencyAwareEmbedding)):
            packed = _word_embedding(self.encoder.word_embeddings, word, tensors)
            set_module(self.model, self.encoder.word_embeddings, packed)
            if self.encoder.decoder is not None:
                bias = get_module(self.model, self.encoder.decoder).bias
                assert bias is None or isinstance(bias, nn.Parameter)
                set_module(self.model, self.encoder.decoder, PackedDecoder(packed, bias))

    def _pack_block(self, layer: EncoderLayer, tensors: Mapping[str, Tensor]) -> None:
        """Put bits in the places of signs."""
        block = get_module(self.model, layer.block)
        assert isinstance(block, Block)
        for path, spec in layer.linears():
            linear = block.get_submodule(spec.name)
            assert isinstance(linear, BinaryLinear)
            block.set_linears({spec.name: PackedLinear(linear, tensors[f"{path}.weight"])})
        core = block.attention.core
        assert isinstance(core, BinaryAttention)
        tables = {
            name: tensors[f"{layer.attention}.{name}"]
            for name in ("position_key", "position_query")
            if getattr(core, name) is not None
        }
        block.attention.core = PackedAttention(core, tables)
        set_module(self.model, layer.block, PackedBlock(block))


def finish(model: nn.Module) -> None:
    """Work out what follows from the tensors of a packed model, once all are in their places.

    Raises:
        CheckpointError: tensors contradict each other.
    """
    for module in model.modules():
        if isinstance(module, PackedFrequencyAwareEmbedding):
            module.refresh()
        elif isinstance(module, PackedBlock):
            module.prepare()


def _set_numbers(
    model: nn.Module, plan: Mapping[str, Storage], tensors: Mapping[str, Tensor]
) -> None:
    """Give every parameter that stays a number its value, in fp32, wherever it is shared."""
    places: dict[int, list[str]] = {}
    names = dict(model.named_parameters(remove_duplicate=False))
    for name, parameter in names.items():
        places.setdefault(id(parameter), []).append(name)
    for name, storage in plan.items():
        if storage.code == "number" and "parametrizations" not in name:
            value = nn.Parameter(tensors[storage.name].float(), requires_grad=False)
            for shared in places[id(names[name])]:
                path, _, attribute = shared.rpartition(".")
                setattr(get_module(model, path), attribute, value)


def _rounded(path: str, module: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    weight: Any = module.parametrizations["weight"]  # type: ignore[index]
    table = PackedRoundedEmbedding(
        tensors[f"{path}.weight"],
        tensors[f"{path}.weight_scale"],
        weight[0].bits,
        weight.original.shape[-1],
    )
    if isinstance(module, nn.Linear):
        return PackedRoundedLinear(table, module.bias)
    return table


def _word_embedding(
    path: str, module: SignEmbedding | FrequencyAwareEmbedding, tensors: Mapping[str, Tensor]
) -> PackedEmbedding:
    columns = module.embedding_dim
    if isinstance(module, SignEmbedding):
        return PackedSignEmbedding(
            tensors[f"{path}.weight"], tensors[f"{path}.scale"], module.bits, columns
        )
    return PackedFrequencyAwareEmbedding(
        PackedRoundedEmbedding(
            tensors[f"{path}.frequent"],
            tensors[f"{path}.rounding.scale"],
            module.FREQUENT_BITS,
            columns,
        ),
        PackedRoundedEmbedding(
            tensors[f"{path}.codebooks"],
            tensors[f"{path}.centroid_rounding.scale"],
            module.CENTROID_BITS,
            module.subvector,
        ),
        tensors[f"{path}.codes"],
        tensors[f"{path}.is_frequent"],
        columns,
    )
