"""From a packed artefact to a transformers model that runs on its bits."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any

from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import PretrainedConfig

from bipft_compress import checkpoint
from bipft_compress.convert.attach import ATTRIBUTE
from bipft_compress.convert.storage import Storage, storage_plan
from bipft_compress.convert.swap import swap
from bipft_compress.errors import CheckpointError, first_line
from bipft_compress.families import Encoder, EncoderLayer, get_module, set_module
from bipft_compress.nn import FrequencyAwareEmbedding, SignEmbedding
from bipft_compress.recipe import Recipe
from bipft_compress.record import WEIGHTS, Record
from bipft_compress.runtime.artefact import KEY, is_packed, read_recipe, read_record, read_tensors
from bipft_compress.runtime.bits import unpack_fields
from bipft_compress.runtime.codec import packed_like, unpack_state
from bipft_compress.runtime.embedding import (
    PackedDecoder,
    PackedEmbedding,
    PackedFrequencyAwareEmbedding,
    PackedRoundedEmbedding,
    PackedRoundedLinear,
    PackedSignEmbedding,
)
from bipft_compress.runtime.layer import MASKS, LayerFacts, make_layer, run_packed

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load(directory: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Record]:
    """Read a packed artefact or a binary training checkpoint.

    Returns:
        The model in evaluation mode, its tokenizer and its record. That of an artefact is of the
        original's class, runs on packed bits, and cannot be trained.

    Raises:
        CheckpointError: it is missing, incomplete, damaged, or of a newer version.
    """
    path = Path(directory)
    if not is_packed(path):
        return checkpoint.load(path)
    skeleton, tensors, record = _read(path)
    return skeleton.fill(tensors), checkpoint.load_tokenizer(path), record


def unpack(directory: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Record]:
    """Read a packed artefact as a training model that computes the same.

    For what trains beside frozen weights, such as adapters: of the latent weights only the signs
    are left, so that they themselves would not train well.

    Returns:
        The model in evaluation mode, its tokenizer and its record.

    Raises:
        CheckpointError: see `load`.
    """
    path = Path(directory)
    skeleton, tensors, record = _read(path)
    config = checkpoint.load_config(path)
    # What is made is not packed.
    delattr(config, KEY)
    model = checkpoint.model_from_config(config)
    swap(model, skeleton.recipe)
    state = model.state_dict()
    model.load_state_dict(unpack_state(tensors, skeleton.plan, state), strict=False)
    return model.eval(), checkpoint.load_tokenizer(path), record


def _read(path: Path) -> tuple[Skeleton, dict[str, Tensor], Record]:
    recipe = read_recipe(path)
    record = read_record(path, recipe)
    try:
        skeleton = Skeleton(checkpoint.load_config(path), recipe)
    except Exception as error:  # transformers checks little of what it builds from
        raise CheckpointError(
            f"The configuration of {path} fits no model ({first_line(error)})."
        ) from None
    return skeleton, read_tensors(path / WEIGHTS, skeleton.expected(), record.tensors), record


class Skeleton:
    """A binary model without numbers, and how the numbers of each of its tensors are stored.

    Args:
        config: of the model.
        recipe: what it was swapped with.
    """

    def __init__(self, config: PretrainedConfig, recipe: Recipe) -> None:
        # Parameters on the meta device cost nothing; buffers follow from the configuration.
        with init_empty_weights(include_buffers=False):
            self.model = checkpoint.model_from_config(copy.deepcopy(config))
        self.model.tie_weights()
        self.recipe = recipe
        self.encoder: Encoder = swap(self.model, recipe)[0]
        self.plan: dict[str, Storage] = storage_plan(self.model, self.encoder, recipe)

    def expected(self) -> dict[str, Tensor]:
        """Empty tensors of the packed types and shapes, by stored name."""
        state = self.model.state_dict()
        return {
            storage.name: packed_like(storage, state[name].shape)
            for name, storage in self.plan.items()
        }

    def fill(self, tensors: Mapping[str, Tensor]) -> PreTrainedModel:
        """The model, running on packed `tensors`; may be called once."""
        word = get_module(self.model, self.encoder.word_embeddings)
        _set_numbers(self.model, self.plan, tensors)
        for layer in self.encoder.layers:
            self._fill_layer(layer, tensors)
        rounded = [*self.encoder.embeddings_kept, self.encoder.pooler]
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
        self.model.config._attn_implementation = MASKS
        self.model.requires_grad_(False).eval()
        return self.model

    def _fill_layer(self, layer: EncoderLayer, tensors: Mapping[str, Tensor]) -> None:
        module = get_module(self.model, layer.path)
        norm = get_module(self.model, layer.output_norm)
        assert isinstance(norm, nn.LayerNorm)
        facts = LayerFacts(
            heads=self.encoder.heads,
            head_dim=self.encoder.head_dim,
            eps=norm.eps,
            activation=self.encoder.activation,
            bits=self.recipe.activations.bits,
            key_value_bits=self.recipe.activations.key_value_bits,
            boolean=self.recipe.activations.attention == "boolean",
        )
        parts = layer.linears | {
            "attention": f"{layer.attention}.{ATTRIBUTE}",
            "attention_norm": layer.attention_norm,
            "output_norm": layer.output_norm,
        }
        own = {
            f"{part}{name.removeprefix(path)}": tensor
            for part, path in parts.items()
            for name, tensor in tensors.items()
            if name.startswith(f"{path}.")
        }
        # The class stays: transformers finds the hidden states by it.
        for child, _ in list(module.named_children()):
            delattr(module, child)
        module.packed = make_layer(own, facts)
        module.forward = MethodType(run_packed, module)


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
            for place in places[id(names[name])]:
                path, _, attribute = place.rpartition(".")
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
        return PackedSignEmbedding(tensors[f"{path}.weight"], tensors[f"{path}.scale"], columns)
    marked = unpack_fields(tensors[f"{path}.is_frequent"], 1, module.num_embeddings).sum()
    if marked != module.frequent_rows:
        raise CheckpointError(
            f"{path}.is_frequent marks {marked} rows where there are {module.frequent_rows}: the "
            "artefact was changed; pack the checkpoint again."
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
