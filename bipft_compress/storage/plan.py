"""How each tensor of a binary model is stored once it is packed: decided here, from the recipe.

The training checkpoint keeps latent weights in fp32, but already holds no number that the packed
artefact could not: `round_to_stored` sees to it, so that packing changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bipft_compress.errors import RecipeError
from bipft_compress.families import Encoder
from bipft_compress.nn import (
    BinaryAttention,
    BinaryLinear,
    FrequencyAwareEmbedding,
    HeadwiseEstimator,
    LowRankEstimator,
    Readout,
    RowRounding,
    SharedEstimator,
    SignEmbedding,
)
from bipft_compress.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SMALLEST = 2.0**-24
"""The smallest positive fp16 number."""


@dataclass(frozen=True)
class Storage:
    """How one tensor of the training model's state is stored.

    Attributes:
        name: of the packed tensor; the tensor's own, but for latent and parametrized weights.
        code: ``signs`` (codes of latent weights: planes of signs), ``rows`` (the integers of a
            `RowRounding`), ``flags`` (booleans, one bit), ``bytes`` (as it is), or ``number``.
        bits: of a stored number.
        scale: ``rows``: which tensor of the state holds the step of each row.
        wider: ``number`` of 16 bits: what in the recipe would give it 32.
    """

    name: str
    code: Literal["signs", "rows", "flags", "bytes", "number"]
    bits: int
    scale: str = ""
    wider: str = ""


def storage_plan(model: PreTrainedModel, encoder: Encoder, recipe: Recipe) -> dict[str, Storage]:
    """Name of each tensor of a swapped model's state to how it is stored; shared ones once.

    Args:
        model: after `structure.swap`; only names and shapes are read.
        encoder: the parts of `model`.
        recipe: what `model` was swapped with.
    """
    plan: dict[str, Storage] = {}
    seen: set[int] = set()
    for path, module in model.named_modules():
        for name, tensor in _own_tensors(module):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                plan[f"{path}.{name}".lstrip(".")] = _storage(path, name, module, encoder, recipe)
    return plan


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What `module` itself adds to the state; what follows from the configuration is not in it."""
    yield from module.named_parameters(recurse=False)
    if isinstance(module, FrequencyAwareEmbedding):
        yield from (("codes", module.codes), ("is_frequent", module.is_frequent))
    if isinstance(module, Readout):
        yield "importance", module.importance


def _storage(path: str, name: str, module: nn.Module, encoder: Encoder, recipe: Recipe) -> Storage:
    full = f"{path}.{name}".lstrip(".")
    if isinstance(module, BinaryLinear) and name == "weight":
        return Storage(full, "signs", module.weight_bits)
    if isinstance(module, BinaryAttention) and name in ("position_key", "position_query"):
        return Storage(full, "signs", 1)
    if isinstance(module, SignEmbedding):
        if name == "latent":
            return Storage(f"{path}.weight", "signs", module.bits)
        return Storage(full, "number", 16, wider="embeddings.code to full")
    if isinstance(module, FrequencyAwareEmbedding):
        return {
            "frequent": Storage(full, "rows", module.FREQUENT_BITS, f"{path}.rounding.scale"),
            "codebooks": Storage(
                full, "rows", module.CENTROID_BITS, f"{path}.centroid_rounding.scale"
            ),
            "codes": Storage(full, "bytes", 8),
            "is_frequent": Storage(full, "flags", 1),
        }[name]
    if isinstance(module, Readout):
        return Storage(full, "bytes", 8)
    # A parametrized weight and its rounding lie in modules of torch's own below the layer.
    owner = path.partition(".parametrizations")[0]
    kind = _kept_kind(owner, name, encoder)
    if isinstance(module, RowRounding):
        wider = f"{kind} to 32" if kind else "embeddings.code to full"
        stored = f"{owner}.weight_scale" if kind else full
        return Storage(stored, "number", 16, wider=wider)
    if isinstance(module, parametrize.ParametrizationList):
        rounding = module[0]
        assert isinstance(rounding, RowRounding)
        return Storage(f"{owner}.weight", "rows", rounding.bits, f"{path}.0.scale")
    if owner == encoder.word_embeddings:
        return Storage(full, "number", 32)
    bits: int = recipe.kept.vectors
    key = "kept.vectors"
    if isinstance(module, (LowRankEstimator, HeadwiseEstimator, SharedEstimator)):
        bits, key = recipe.estimators.bits, "estimators.bits"
    elif kind:
        section, _, choice = kind.partition(".")
        bits, key = getattr(getattr(recipe, section), choice), kind
    return Storage(full, "number", bits, wider=f"{key} to 32")


def _kept_kind(owner: str, name: str, encoder: Encoder) -> str:
    """The recipe's key for a matrix outside the blocks, or '' where `owner` holds none."""
    if owner in encoder.embeddings_kept:
        return "kept.position_embeddings"
    if owner == encoder.pooler and name != "bias":
        return "kept.pooler"
    if encoder.readout is not None and owner.startswith(f"{encoder.readout}.") and name != "bias":
        return "readout.bits"
    return ""


@torch.no_grad()
def round_to_stored(model: PreTrainedModel, encoder: Encoder, recipe: Recipe) -> None:
    """Round, in place, each number that the packed artefact stores in 16 bits.

    No number becomes 0 that was not: scales are divided by.

    Raises:
        RecipeError: a number is beyond the range of fp16.
    """
    state = model.state_dict()
    for name, storage in storage_plan(model, encoder, recipe).items():
        if storage.code == "number" and storage.bits == 16:
            tensor = state[name]
            rounded = tensor.half().float()
            if not rounded.isfinite().all():
                raise RecipeError(
                    f"{name} holds a number that 16 bits cannot (beyond 65504): set "
                    f"{storage.wider} in the recipe and compress again."
                )
            vanished = (rounded == 0) & (tensor != 0)
            tensor.copy_(torch.where(vanished, tensor.sign() * _SMALLEST, rounded))
