"""Packed artefacts in: as a model that runs on their bits, or one that can be trained beside."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open
from torch import Tensor

from bipft_compress.checkpoint import legacy
from bipft_compress.checkpoint.artefact import read_record, read_tensors
from bipft_compress.checkpoint.attach import attach, skeleton_of
from bipft_compress.checkpoint.header import read_header
from bipft_compress.checkpoint.hub import local_directory
from bipft_compress.checkpoint.listed import read_config, read_listed_pipeline, read_tokenizer
from bipft_compress.checkpoint.mark import read_recipe, unguard, unmark
from bipft_compress.checkpoint.record import WEIGHTS, Record, read_version
from bipft_compress.families import Encoder
from bipft_compress.loading import model_from_config
from bipft_compress.loading.claims import check_layers, configuration_faults
from bipft_compress.loading.state import fill
from bipft_compress.recipe import Recipe
from bipft_compress.runtime.block import PackedBlock
from bipft_compress.runtime.model import Skeleton, empty_model
from bipft_compress.runtime.modules import PackedLinear
from bipft_compress.runtime.native import REFERENCE
from bipft_compress.storage.codec import pack_state, unpack_state
from bipft_compress.storage.plan import storage_plan
from bipft_compress.structure.swap import swap

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_packed(directory: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Record]:
    """Read a packed artefact.

    Returns:
        The model in evaluation mode, of the original's class, which runs on packed bits and cannot
        be trained; its tokenizer and its record.

    Raises:
        CheckpointError: it is missing, incomplete, damaged, or of a version that is not read.
    """
    path = local_directory(directory)
    skeleton, tensors, record = _read(path)
    model = skeleton.fill(tensors)
    attach(model, record, "packed")
    del tensors
    if read_version(path) != legacy.VERSION:
        _forget_pages(model, path / WEIGHTS)
    record.pipeline = read_listed_pipeline(path, record)
    return model, read_tokenizer(path, record), record


def packed_copy(model: PreTrainedModel, encoder: Encoder, recipe: Recipe) -> PreTrainedModel:
    """A model that runs on the bits of a binary training model, as if it had been written and read.

    Args:
        model: whose numbers are rounded to what is stored; not changed.
        encoder: the parts of `model`.
        recipe: of `model`.

    Raises:
        RecipeError: a number is beyond the range of its stored type.
    """
    tensors = pack_state(model.state_dict(), storage_plan(model, encoder, recipe))
    return skeleton_of(model, recipe).fill(tensors)


def _forget_pages(model: PreTrainedModel, file: Path) -> None:
    """Map the bits of compiled blocks anew: the kernels have their own, so they are in memory once.

    What is mapped takes no memory until it is read, as on another device.
    """
    with safe_open(file, framework="pt") as bits:
        for path, block in model.named_modules():
            if isinstance(block, PackedBlock) and block.path != REFERENCE:
                for name, linear in block.named_modules():
                    if isinstance(linear, PackedLinear):
                        linear.register_buffer("weight", bits.get_tensor(f"{path}.{name}.weight"))


def unpack(directory: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Record]:
    """Read a packed artefact as a training model that computes the same.

    For what trains beside frozen weights, such as adapters: of the latent weights only the signs
    are left, so that they themselves would not train well.

    Returns:
        The model in evaluation mode, its tokenizer and its record.

    Raises:
        CheckpointError: see `load_packed`.
    """
    path = local_directory(directory)
    skeleton, tensors, record = _read(path)
    model = model_from_config(unmark(read_config(path, record)))
    swap(model, skeleton.recipe)
    state = unpack_state(tensors, skeleton.plan, model.state_dict())
    fill(model, state, path / WEIGHTS)
    record.pipeline = read_listed_pipeline(path, record)
    attach(model, record, "training")
    return model.eval(), read_tokenizer(path, record), record


def _read(path: Path) -> tuple[Skeleton, dict[str, Tensor], Record]:
    recipe = read_recipe(path)
    record = read_record(path, recipe)
    config = read_config(path, record)
    unguard(config)
    entries = read_header(path / WEIGHTS)
    check_layers(config, len(entries), path)
    with configuration_faults(path):
        skeleton = Skeleton(empty_model(config), recipe)
        expected = skeleton.expected()
    names = None
    if read_version(path) == legacy.VERSION:
        names = partial(legacy.rename_0_1, model_type=config.model_type)
    tensors = read_tensors(path / WEIGHTS, entries, expected, record.tensors, names)
    return skeleton, tensors, record
