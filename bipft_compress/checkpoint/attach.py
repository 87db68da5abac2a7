"""Binary models inside `from_pretrained` and `save_pretrained` of transformers.

What our quantizer calls; it is registered when this package is imported. Between its two calls of
`build` and `complete` transformers itself puts each tensor of the file into the model, by name.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open
from torch import Tensor
from transformers.quantizers.auto import AutoHfQuantizer
from transformers.utils.hub import cached_file

from bipft_compress.checkpoint.artefact import check_weights, digests, read_record
from bipft_compress.checkpoint.header import read_header
from bipft_compress.checkpoint.listed import check_config
from bipft_compress.checkpoint.mark import (
    OLDEST_VERSION,
    Form,
    form_of,
    guard,
    mark,
    recipe_of,
    unguard,
    unmark,
)
from bipft_compress.checkpoint.record import RECORD, Record, embed
from bipft_compress.errors import CheckpointError
from bipft_compress.families import describe
from bipft_compress.loading import state_to_save
from bipft_compress.nn import FrequencyAwareEmbedding
from bipft_compress.recipe import Recipe
from bipft_compress.runtime.model import Skeleton, empty_model, finish
from bipft_compress.structure.swap import swap

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def attach(model: PreTrainedModel, record: Record, form: Form) -> None:
    """Give a binary model our quantizer, so that transformers saves it as what it is."""
    quantizer: Any = AutoHfQuantizer.from_config(mark(record.recipe, form), pre_quantized=True)
    quantizer.record = record
    model.hf_quantizer = quantizer
    settle(model, form)


def settle(model: Any, form: str) -> None:
    """What transformers is told of a binary model."""
    # Of bits it refuses training and `half`; latent weights are numbers like any other model's.
    model.is_quantized = form == "packed"
    # Tensors are stored under the names that they are given here.
    model._weight_conversions = []


def build(
    model: PreTrainedModel, values: Mapping[str, Any], weights: Path
) -> tuple[Record, dict[str, str], dict[str, Tensor]]:
    """Give a model on the meta device the modules whose tensors lie in a file, and check these.

    Args:
        model: full-precision, of any class of the family; changed in place.
        values: `quantization_config` of the checkpoint.
        weights: its file.

    Returns:
        The checkpoint's record; name in the model of each tensor, by its stored name, where a
        fresh head has none; and buffers that follow from the configuration, by name.

    Raises:
        CheckpointError: the checkpoint is incomplete, damaged, or of a version that is not read.
    """
    directory = weights.parent
    recipe = recipe_of(values, directory)
    if values["version"] == OLDEST_VERSION:
        raise CheckpointError(
            f"{directory} was packed by version 0.1: read it with `bipft_compress.load`, or pack "
            "the checkpoint again."
        )
    _fetch_record(model, weights)
    packed = form_of(values) == "packed"
    record = read_record(directory, recipe) if packed else Record.read(directory)
    check_config(directory, record)
    if packed:
        read_header(weights)
    check_weights(weights, record)
    held = _names_in(weights, model)
    _tie(model)
    recipe = _without_pooler(model, recipe, held)
    if packed:
        names = Skeleton(model, recipe).pack_empty()
    else:
        swap(model, recipe)
        for module in model.modules():
            if isinstance(module, FrequencyAwareEmbedding):
                module.position = None  # it follows from what the file holds
        names = {name: name for name in model.state_dict()}
    own = model.state_dict()
    lost = {name for name in names if _inner(name, model) not in held}
    for name in sorted(lost):
        if not own[names[name]].is_floating_point():
            raise CheckpointError(f"{weights} lacks the tensor {name}.")
    model.all_tied_weights_keys = {
        tied: name
        for tied, name in model.all_tied_weights_keys.items()
        if tied in own and name in own
    }
    kept = {name: buffer for name, buffer in model.named_buffers() if not buffer.is_meta}
    return record, {stored: name for stored, name in names.items() if stored not in lost}, kept


def _tie(model: PreTrainedModel) -> None:
    """Share what the model shares, which transformers does only once the tensors are there."""
    for tied, source in model.all_tied_weights_keys.items():
        owner, _, name = tied.rpartition(".")
        setattr(model.get_submodule(owner), name, model.get_parameter(source))


def _fetch_record(model: PreTrainedModel, weights: Path) -> None:
    """Fetch the record of a model of the hub to where its weights are."""
    config: Any = model.config
    if not weights.with_name(RECORD).is_file() and not Path(config.name_or_path).is_dir():
        cached_file(
            config.name_or_path,
            RECORD,
            revision=config._commit_hash,
            _raise_exceptions_for_missing_entries=False,
        )


def _names_in(weights: Path, model: PreTrainedModel) -> set[str]:
    with safe_open(weights, framework="pt") as file:
        return {_inner(name, model) for name in file.keys()}  # noqa: SIM118


def _inner(name: str, model: PreTrainedModel) -> str:
    """A tensor's name below the backbone, which another class of the family has elsewhere."""
    return name.removeprefix(f"{model.base_model_prefix}.")


def _without_pooler(model: PreTrainedModel, recipe: Recipe, held: set[str]) -> Recipe:
    """The recipe, with a pooler in floating point where the file has none.

    A model of another class than the stored one may have one, which transformers draws at random.
    """
    pooler = describe(model).pooler
    if pooler is None or _inner(f"{pooler}.bias", model) in held:
        return recipe
    return recipe.changed(kept={"pooler": 32})


def complete(
    model: PreTrainedModel, form: str, names: Mapping[str, str], kept: Mapping[str, Tensor]
) -> None:
    """Work out what follows from the tensors, once transformers has put them in their places.

    Args:
        model: of `build`; what it has of the file is frozen where it is packed.
        form: see `Form`.
        names: of `build`.
        kept: of `build`; transformers put memory without meaning in their places.

    Raises:
        CheckpointError: tensors contradict each other.
    """
    for name, buffer in kept.items():
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, buffer)
    if form == "packed":
        stored = set(names.values())
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if name in stored:
                parameter.requires_grad_(False)
        finish(model)
    unguard(model.config)
    settle(model, form)


def written(
    model: PreTrainedModel, record: Record, form: Form
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What transformers is to write of a binary model: its tensors and the file's metadata.

    The configuration, which it writes next, is marked in place.

    Raises:
        CheckpointError: the model has other modules than it was loaded with.
    """
    recipe = record.recipe
    tensors = _packed_state(model, recipe) if form == "packed" else state_to_save(model)
    model.config.quantization_config = mark(recipe, form)
    guard(model.config)
    record = replace(record, tensors=digests(tensors), files={}, weights_sha256="")
    return tensors, embed(record)


def skeleton_of(model: PreTrainedModel, recipe: Recipe) -> Skeleton:
    """The structure of a binary model at hand, packed or not, without its numbers."""
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    return Skeleton(empty_model(unmark(config)), recipe)


def _packed_state(model: PreTrainedModel, recipe: Recipe) -> dict[str, Tensor]:
    skeleton = skeleton_of(model, recipe)
    expected, own, tensors = skeleton.expected(), model.state_dict(), {}
    for stored, name in skeleton.pack_empty().items():
        tensor, empty = own.get(name), expected[stored]
        if tensor is None or tensor.shape != empty.shape:
            raise CheckpointError(
                f"This model is not as it was loaded ({name} has another form or is gone), and "
                "cannot be saved: save what was added alone, or copy the directory it was read of."
            )
        tensors[stored] = tensor.detach().cpu().to(empty.dtype).contiguous()
    return tensors
