"""Counts as data: what a report's sections on operations and memory hold."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

OPERATION_KINDS = {
    "linear": "linear layers",
    "attention": "attention products",
    "positions": "positions in attention",
    "estimator": "estimators",
    "softmax": "softmax",
    "activation": "activation function",
    "layer_norm": "norms",
    "epilogue": "scales, biases, residual adds",
    "thresholds": "coding activations",
    "kept": "layers' full-precision parts",
    "embeddings": "embeddings",
    "pooler": "pooler",
    "readout": "readout",
    "head": "task head",
}
"""Kinds of `OperationPart` and what they are called, in the order shown."""

MEMORY_KINDS = {
    "linear_weights": "linear weights",
    "attention_positions": "position keys and queries",
    "estimators": "estimators",
    "vectors": "biases, scales, shifts, norms",
    "kept": "layers' full-precision parts",
    "word_embeddings": "word embeddings",
    "position_embeddings": "position and type embeddings",
    "pooler": "pooler",
    "readout": "readout",
    "head": "task head, projections",
}
"""Kinds of `MemoryPart`, likewise."""


class Strict(BaseModel):
    """Part of a report: nothing unknown in it, never changed, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class OperationPart(Strict):
    """One product, or one kind of elementwise arithmetic, of one module."""

    name: str = Field(description="Module path, with what it does in brackets.")
    kind: str = Field(
        description="linear, attention, positions, estimator, softmax, activation, layer_norm, "
        "epilogue, thresholds, kept, embeddings, pooler or head."
    )
    bits: str = Field(
        description="Widths of the compressed product's operands as 1x1, or 32x32 for full "
        "precision; elementwise or integer where there is no product."
    )
    macs: int = Field(0, ge=0, description="Multiply-accumulates, whatever their width.")
    full_precision: float = Field(ge=0, description="FLOPs of the original.")
    compressed: float = Field(ge=0, description="FLOPs of the binary model.")
    integer_comparisons: int = Field(0, ge=0, description="Of the binary model; no FLOPs.")
    note: str = Field("", description="Why it costs what it costs.")


class Count(Strict):
    """A sum over parts."""

    macs: int = Field(description="Multiply-accumulates, whatever their width.")
    full_precision: float = Field(description="FLOPs of the original.")
    compressed: float = Field(description="FLOPs of the binary model.")


class ExactCount(Strict):
    """Operations as they are, before any convention turns them into FLOPs."""

    macs: dict[str, int] = Field(description="Widths of the operands to multiply-accumulates.")
    integer_comparisons: int = Field(description="Accumulators compared with thresholds.")
    elementwise_flops: int = Field(description="Floating-point arithmetic outside products.")


class Operations(Strict):
    """Operations of one forward pass."""

    full_precision: float = Field(description="FLOPs of the original.")
    compressed: float = Field(description="FLOPs of the binary model, 64 bit products to one.")
    ratio: float = Field(description="full_precision / compressed.")
    by_kind: dict[str, Count] = Field(description="Kind to its sum.")
    by_bits: dict[str, ExactCount] = Field(description="full_precision and compressed, exactly.")
    left_out: list[str] = Field(description="What the counts leave out, in sentences.")
    parts: list[OperationPart] = Field(description="Everything counted.")


class MemoryPart(Strict):
    """Stored numbers of one module."""

    name: str = Field(description="Module path, with what it is in brackets.")
    kind: str = Field(
        description="linear_weights, attention_positions, estimators, vectors, kept, "
        "word_embeddings, position_embeddings, pooler or head."
    )
    full_precision_bytes: int = Field(ge=0, description="In the original.")
    compressed_bytes: int = Field(ge=0, description="In the packed model.")
    bits_per_weight: float | None = Field(
        description="Packed bits a number of the part; null where it has none."
    )
    note: str = Field("", description="How it is stored.")


class ByteCount(Strict):
    """A sum over parts."""

    full_precision_bytes: int = Field(description="In the original.")
    compressed_bytes: int = Field(description="In the packed model.")


class Memory(Strict):
    """Bytes of the weights."""

    full_precision_bytes: int = Field(description="Of the original, 4 bytes a number.")
    compressed_bytes: int = Field(description="Of the packed model.")
    ratio: float = Field(description="full_precision_bytes / compressed_bytes.")
    by_kind: dict[str, ByteCount] = Field(description="Kind to its sum.")
    left_out: list[str] = Field(description="What the counts leave out, in sentences.")
    parts: list[MemoryPart] = Field(description="Everything counted.")


class PapersPart(Strict):
    """One term of `PapersConvention`."""

    name: str = Field(description="What it is.")
    operations_full_precision: float | None = Field(None, description="FLOPs.")
    operations_compressed: float | None = Field(None, description="FLOPs.")
    memory_full_precision_bytes: int | None = Field(None, description="Bytes.")
    memory_compressed_bytes: int | None = Field(None, description="Bytes.")


class PapersConvention(Strict):
    """What the papers would print for this geometry and these bits, without estimators."""

    operations_full_precision: float = Field(description="FLOPs.")
    operations_compressed: float = Field(description="FLOPs.")
    memory_full_precision_bytes: int = Field(description="Bytes; the papers' MB are MiB.")
    memory_compressed_bytes: int = Field(description="Bytes; the papers' MB are MiB.")
    parts: list[PapersPart] = Field(description="What the sums are made of.")
    left_out: list[str] = Field(description="What the papers leave out, in sentences.")
