"""Counts the bytes of the weights, in full precision and packed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.utils import parametrize

from bipft_compress.counting.pipeline import FULL_BYTES, pipeline_memory
from bipft_compress.counting.schema import ByteCount, Memory, MemoryPart
from bipft_compress.families import Encoder, get_module
from bipft_compress.loading import SentencePipeline
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
from bipft_compress.storage.plan import Storage, storage_plan

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADDED = ("vectors", "estimators", "attention_positions", "readout")
"""Kinds that hold numbers of the binary model alone."""

LEFT_OUT = (
    "The file's header, names of tensors and alignment; tokenizer files.",
    "Buffers that follow from the configuration, such as position numbers.",
    "Activations and working memory while the model runs.",
)
"""What the byte counts leave out, in sentences."""


def count_memory(
    model: PreTrainedModel,
    encoder: Encoder,
    recipe: Recipe,
    parameters: int,
    pipeline: SentencePipeline | None = None,
) -> Memory:
    """Bytes of every stored tensor of a swapped model; weights that are shared count once.

    Args:
        model: after `structure.swap`; only shapes are read.
        encoder: the parts of `model`.
        recipe: bits of what the modules keep as plain tensors (`kept`, `estimators.bits`).
        parameters: numbers of the original model, shared ones once.
        pipeline: what lies behind the encoder.
    """
    parts = [*_stored(model, encoder, recipe)]
    parts += _not_stored(encoder, parameters, parts)
    parts += pipeline_memory(pipeline)
    full = sum(part.full_precision_bytes for part in parts)
    compressed = sum(part.compressed_bytes for part in parts)
    return Memory(
        full_precision_bytes=full,
        compressed_bytes=compressed,
        ratio=full / compressed,
        by_kind=_by_kind(parts),
        left_out=list(LEFT_OUT),
        parts=parts,
    )


def packed(rows: int, columns: int, bits: int) -> int:
    """Bytes of a matrix of `bits` bits a number whose rows start on whole bytes."""
    return rows * -(-columns * bits // 8)


@dataclass(frozen=True)
class _Label:
    """The part that a stored tensor is counted in.

    Attributes:
        name: as in `MemoryPart`, like `kind` and `note`.
        kind: see there.
        note: see there.
        original: numbers of the original that it stands for.
    """

    name: str
    kind: str
    note: str
    original: int


@dataclass
class _Sum:
    """Tensors of one part, added up."""

    kind: str
    note: str
    numbers: int = field(default=0)
    original: int = field(default=0)
    stored_bytes: int = field(default=0)


def _stored(model: PreTrainedModel, encoder: Encoder, recipe: Recipe) -> Iterator[MemoryPart]:
    biases = {f"{path}.bias" for path, linear in encoder.linears() if linear.bias}
    base = {id(module) for module in model.base_model.modules()}
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    sums: dict[str, _Sum] = {}
    for name, storage in storage_plan(model, encoder, recipe).items():
        owner, tensor = name.rpartition(".")[0], tensors[name]
        module = get_module(model, owner)
        label = (
            _in_readout(name, model, encoder)
            or _known(name, tensor, module, biases)
            or _rounded(name, tensor, module, encoder)
        )
        if label is None:
            label = _kept(name, tensor, storage, encoder, in_base=id(module) in base)
        part = sums.setdefault(label.name, _Sum(label.kind, label.note))
        part.numbers += tensor.numel()
        part.original += label.original
        part.stored_bytes += _bytes(tensor, storage)
    for part_name, part in sums.items():
        numbers = part.numbers if part.kind in ADDED else part.original
        yield MemoryPart(
            name=part_name,
            kind=part.kind,
            full_precision_bytes=part.original * FULL_BYTES,
            compressed_bytes=part.stored_bytes,
            bits_per_weight=8 * part.stored_bytes / numbers if numbers else None,
            note=part.note,
        )


def _bytes(tensor: Tensor, storage: Storage) -> int:
    """Packed bytes of a tensor: numbers one after the other, all else in rows of whole bytes."""
    numbers = tensor.numel()
    if storage.code == "number":
        return packed(1, numbers, storage.bits)
    columns = tensor.shape[-1]
    if storage.code == "signs":
        return packed(numbers // columns * storage.bits, columns, 1)
    return packed(numbers // columns, columns, storage.bits)


def _in_readout(name: str, model: nn.Module, encoder: Encoder) -> _Label | None:
    """Part of a tensor of the readout; None for any other."""
    if encoder.readout is None or not name.startswith(f"{encoder.readout}."):
        return None
    readout = get_module(model, encoder.readout)
    assert isinstance(readout, Readout)
    return _Label(encoder.readout, "readout", f"rank {readout.rank}, and 4 bits a word", 0)


def _known(name: str, tensor: Tensor, module: nn.Module, biases: set[str]) -> _Label | None:
    """Part of a tensor of this package's modules; None for any other.

    Args:
        name: of the tensor.
        tensor: of which only the shape is read.
        module: that holds it.
        biases: names of the biases that the original has too.
    """
    owner, _, attribute = name.rpartition(".")
    numbers = tensor.numel()
    match module:
        case BinaryLinear() if attribute == "weight":
            note = "1 bit" if module.weight_bits == 1 else f"{module.weight_bits} planes of 1 bit"
            return _Label(name, "linear_weights", note, numbers)
        case BinaryLinear():
            note = "bias, weight scales, shifts, activation scale"
            return _Label(f"{owner} (vectors)", "vectors", note, numbers * (name in biases))
        case BinaryAttention() if attribute in ("position_key", "position_query"):
            return _Label(name, "attention_positions", "1 bit", 0)
        case BinaryAttention():
            return _Label(owner, "vectors", "shifts and scales of heads", 0)
        case LowRankEstimator() | HeadwiseEstimator() | SharedEstimator():
            return _Label(owner, "estimators", f"rank {module.rank}", 0)
        case SignEmbedding():
            stands_for = numbers if attribute == "latent" else 0
            note = f"{module.bits} bit a weight, one scale a row"
            return _Label(owner, "word_embeddings", note, stands_for)
        case FrequencyAwareEmbedding():
            return _frequency_aware(owner, attribute, module)
    embedding, _, child = owner.rpartition(".")
    if isinstance(module, RowRounding) and child == "rounding":
        return _Label(f"{embedding} (frequent rows)", "word_embeddings", "", 0)
    if isinstance(module, RowRounding) and child == "centroid_rounding":
        return _Label(f"{embedding} (rare rows)", "word_embeddings", "", 0)
    return None


def _frequency_aware(owner: str, attribute: str, module: FrequencyAwareEmbedding) -> _Label:
    """Part of a tensor of the embedding itself; its scales, which come later, have no note."""
    frequent = module.frequent_rows * module.embedding_dim
    if attribute in ("frequent", "is_frequent"):
        note = f"{module.FREQUENT_BITS} bits, one scale a row; one bit a word says which rows"
        original = frequent if attribute == "frequent" else 0
        return _Label(f"{owner} (frequent rows)", "word_embeddings", note, original)
    note = f"one byte for {module.subvector} numbers, and the centroids"
    rare = module.num_embeddings * module.embedding_dim - frequent
    original = rare if attribute == "codes" else 0
    return _Label(f"{owner} (rare rows)", "word_embeddings", note, original)


def _rounded(name: str, tensor: Tensor, module: nn.Module, encoder: Encoder) -> _Label | None:
    """Part of a weight whose rows are rounded, or of their scales; None for any other."""
    if not isinstance(module, (parametrize.ParametrizationList, RowRounding)):
        return None
    owner = name.partition(".parametrizations")[0]
    kind = "pooler" if owner == encoder.pooler else "position_embeddings"
    if isinstance(module, RowRounding):
        bits, original = module.bits, 0
    else:
        rounding = module[0]
        assert isinstance(rounding, RowRounding)
        bits, original = rounding.bits, tensor.numel()
    return _Label(f"{owner}.weight", kind, f"{bits} bits, one scale a row", original)


def _kept(
    name: str, tensor: Tensor, storage: Storage, encoder: Encoder, *, in_base: bool
) -> _Label:
    """Part of a tensor that stays as it is; `in_base`: it belongs to the encoder, not to a head."""
    owner, _, attribute = name.rpartition(".")
    layers = tuple(f"{layer.path}." for layer in encoder.layers)
    kind = "head"
    if owner == encoder.word_embeddings:
        kind = "word_embeddings"
    elif owner in encoder.embeddings_kept:
        kind = "position_embeddings"
    elif owner == encoder.pooler and attribute == "weight":
        kind = "pooler"
    elif tensor.dim() == 1:
        kind = "vectors"
    elif in_base and name.startswith(layers):
        kind = "kept"
    return _Label(name, kind, f"{storage.bits} bits", tensor.numel())


def _not_stored(
    encoder: Encoder, parameters: int, parts: Iterable[MemoryPart]
) -> Iterator[MemoryPart]:
    """Numbers of the original that nothing stored stands for, where there are any."""
    stored = sum(part.full_precision_bytes for part in parts)
    missing = parameters * FULL_BYTES - stored
    if not missing:
        return
    name, kind = "fixed table of positions", "position_embeddings"
    note = "follows from the configuration: not stored"
    if any(layer.spec.attention.relative for layer in encoder.layers):
        name, kind = "table of distances, with its projections and norm", "attention_positions"
        note = "folded into keys and queries of positions"
    yield MemoryPart(
        name=name,
        kind=kind,
        full_precision_bytes=missing,
        compressed_bytes=0,
        bits_per_weight=0,
        note=note,
    )


def _by_kind(parts: Iterable[MemoryPart]) -> dict[str, ByteCount]:
    counts: dict[str, ByteCount] = {}
    for part in parts:
        before = counts.get(part.kind, ByteCount(full_precision_bytes=0, compressed_bytes=0))
        counts[part.kind] = ByteCount(
            full_precision_bytes=before.full_precision_bytes + part.full_precision_bytes,
            compressed_bytes=before.compressed_bytes + part.compressed_bytes,
        )
    return counts
