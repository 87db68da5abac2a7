"""Counts the bytes of the weights, in full precision and packed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.utils import parametrize

from bipft_compress.counting.schema import ByteCount, Memory, MemoryPart
from bipft_compress.families import Encoder
from bipft_compress.nn import (
    BinaryAttention,
    BinaryLinear,
    FrequencyAwareEmbedding,
    HeadwiseEstimator,
    LowRankEstimator,
    RowRounding,
    SharedEstimator,
    SignEmbedding,
)
from bipft_compress.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FULL_BYTES = 4
"""Bytes of a number in full precision."""

ROW_SCALE_BITS = 16
"""Bits of the scale of a row that is rounded or coded."""

LEFT_OUT = (
    "The file's header, names of tensors and alignment; tokenizer files.",
    "Buffers that follow from the configuration, such as position numbers.",
    "Activations and working memory while the model runs.",
)
"""What the byte counts leave out, in sentences."""


def count_memory(model: PreTrainedModel, encoder: Encoder, recipe: Recipe) -> Memory:
    """Bytes of every stored tensor of a swapped model; weights that are shared count once.

    Args:
        model: after `convert.swap`; only shapes are read.
        encoder: the parts of `model`.
        recipe: bits of what the modules keep as plain tensors (`kept`, `estimators.bits`).
    """
    parts = [*_parts(model, encoder, recipe)]
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


def _part(
    name: str, kind: str, numbers: int, full_numbers: int, compressed: int, note: str = ""
) -> MemoryPart:
    return MemoryPart(
        name=name,
        kind=kind,
        full_precision_bytes=full_numbers * FULL_BYTES,
        compressed_bytes=compressed,
        bits_per_weight=8 * compressed / numbers if numbers else None,
        note=note,
    )


def _parts(model: PreTrainedModel, encoder: Encoder, recipe: Recipe) -> Iterator[MemoryPart]:
    seen: set[int] = set()
    done: tuple[str, ...] = ()
    for path, module in model.named_modules():
        if done and path.startswith(done):
            continue
        known = [*_known(path, module, recipe)]
        if not known and parametrize.is_parametrized(module, "weight"):
            known = [*_rounded(path, module, encoder, recipe)]
        if known:
            # A layer shared between two places is stored, and counted, once.
            if id(module) not in seen:
                yield from known
            seen.add(id(module))
            done = (*done, f"{path}.")
            continue
        yield from _plain(path, module, encoder, recipe, seen)


def _known(path: str, module: nn.Module, recipe: Recipe) -> Iterator[MemoryPart]:
    """Parts of a module of this package; none for any other."""
    vectors = recipe.kept.vectors
    if isinstance(module, BinaryLinear):
        rows, columns = module.out_features, module.in_features
        weights = rows * columns
        yield _part(
            f"{path}.weight", "linear_weights", weights, weights, packed(rows, columns, 1), "1 bit"
        )
        numbers = 2 * rows + columns + 1
        yield _part(
            f"{path} (vectors)",
            "vectors",
            numbers,
            rows,
            packed(1, numbers, vectors),
            "bias, weight scales, shifts, activation scale",
        )
        yield from _estimator(f"{path}.estimator", module.estimator, recipe)
    elif isinstance(module, BinaryAttention):
        numbers = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        yield _part(
            path, "vectors", numbers, 0, packed(1, numbers, vectors), "shifts and scales of heads"
        )
        yield from _estimator(f"{path}.score_estimator", module.score_estimator, recipe)
        yield from _estimator(f"{path}.context_estimator", module.context_estimator, recipe)
        yield from _estimator(f"{path}.shared_estimator", module.shared_estimator, recipe)
    elif isinstance(module, SignEmbedding):
        rows, columns = module.num_embeddings, module.embedding_dim
        size = packed(rows, columns, 1) + packed(rows, 1, ROW_SCALE_BITS)
        weights = rows * columns
        yield _part(path, "word_embeddings", weights, weights, size, "1 bit, one scale a row")
    elif isinstance(module, FrequencyAwareEmbedding):
        yield from _frequency_aware(path, module)


def _estimator(
    path: str, module: LowRankEstimator | HeadwiseEstimator | SharedEstimator | None, recipe: Recipe
) -> Iterator[MemoryPart]:
    if module is None:
        return
    numbers = sum(parameter.numel() for parameter in module.parameters())
    size = packed(1, numbers, recipe.estimators.bits)
    yield _part(path, "estimators", numbers, 0, size, f"rank {module.rank}")


def _frequency_aware(path: str, module: FrequencyAwareEmbedding) -> Iterator[MemoryPart]:
    columns, frequent = module.embedding_dim, module.frequent_rows
    rare = module.num_embeddings - frequent
    rows = packed(frequent, columns, module.FREQUENT_BITS) + packed(frequent, 1, ROW_SCALE_BITS)
    yield _part(
        f"{path} (frequent rows)",
        "word_embeddings",
        frequent * columns,
        frequent * columns,
        rows + packed(1, module.num_embeddings, 1),
        f"{module.FREQUENT_BITS} bits, one scale a row; one bit a word says which rows",
    )
    centroids = module.parts * module.CENTROIDS
    books = packed(centroids, module.subvector, module.CENTROID_BITS)
    yield _part(
        f"{path} (rare rows)",
        "word_embeddings",
        rare * columns,
        rare * columns,
        rare * module.parts + books + packed(centroids, 1, ROW_SCALE_BITS),
        f"one byte for {module.subvector} numbers, and the centroids",
    )


def _rounded(
    path: str, module: nn.Module, encoder: Encoder, recipe: Recipe
) -> Iterator[MemoryPart]:
    chain = module.parametrizations["weight"]  # type: ignore[index]
    assert isinstance(chain, parametrize.ParametrizationList)
    rounding, weight = chain[0], chain.original
    assert isinstance(rounding, RowRounding)
    assert isinstance(weight, Tensor)
    rows, columns = weight.shape
    size = packed(rows, columns, rounding.bits) + packed(rows, 1, ROW_SCALE_BITS)
    kind = "pooler" if path == encoder.pooler else "position_embeddings"
    numbers = rows * columns
    note = f"{rounding.bits} bits, one scale a row"
    yield _part(f"{path}.weight", kind, numbers, numbers, size, note)
    bias = getattr(module, "bias", None)
    if bias is not None:
        count = bias.numel()
        yield _part(f"{path}.bias", "vectors", count, count, packed(1, count, recipe.kept.vectors))


def _plain(
    path: str, module: nn.Module, encoder: Encoder, recipe: Recipe, seen: set[int]
) -> Iterator[MemoryPart]:
    """Parameters that stay numbers, at the bits the recipe keeps them at."""
    for name, parameter in module.named_parameters(recurse=False):
        if id(parameter) in seen:
            continue
        seen.add(id(parameter))
        kind, bits = "head", int(recipe.kept.vectors)
        if path == encoder.word_embeddings:
            kind, bits = "word_embeddings", 8 * FULL_BYTES
        elif path in encoder.embeddings_kept:
            kind, bits = "position_embeddings", recipe.kept.position_embeddings
        elif path == encoder.pooler and name == "weight":
            kind, bits = "pooler", recipe.kept.pooler
        elif parameter.dim() == 1:
            kind = "vectors"
        numbers = parameter.numel()
        size = packed(1, numbers, bits)
        full_name = f"{path}.{name}" if path else name
        yield _part(full_name, kind, numbers, numbers, size, f"{bits} bits")


def _by_kind(parts: Iterable[MemoryPart]) -> dict[str, ByteCount]:
    counts: dict[str, ByteCount] = {}
    for part in parts:
        before = counts.get(part.kind, ByteCount(full_precision_bytes=0, compressed_bytes=0))
        counts[part.kind] = ByteCount(
            full_precision_bytes=before.full_precision_bytes + part.full_precision_bytes,
            compressed_bytes=before.compressed_bytes + part.compressed_bytes,
        )
    return counts
