"""What sentence-transformers' modules behind an encoder hold and compute, once a text."""

from __future__ import annotations

from collections.abc import Iterator

from bipft_compress.counting import costs
from bipft_compress.counting.parts import elementwise_part, kept_part
from bipft_compress.counting.schema import MemoryPart, OperationPart
from bipft_compress.loading import SentencePipeline
from bipft_compress.loading.sentence import SentenceModule

FULL_BYTES = 4
"""Bytes of a number in full precision."""

_STORED_BYTES = 2
"""Of a number, as `SentencePipeline.write` writes it."""


def _modules(pipeline: SentencePipeline | None) -> list[tuple[str, SentenceModule]]:
    return [] if pipeline is None else list(pipeline.named_modules())


def pipeline_memory(pipeline: SentencePipeline | None) -> Iterator[MemoryPart]:
    """Bytes of every module that has tensors; of None nothing."""
    for name, module in _modules(pipeline):
        numbers = sum(tensor.numel() for tensor in module.tensors.values())
        if numbers:
            yield MemoryPart(
                name=name,
                kind="head",
                full_precision_bytes=FULL_BYTES * numbers,
                compressed_bytes=_STORED_BYTES * numbers,
                bits_per_weight=8 * _STORED_BYTES,
                note="behind the encoder, 16 bits",
            )


def pipeline_bytes(pipeline: SentencePipeline | None) -> tuple[int, int]:
    """Bytes of all modules together, in full precision and as they are stored."""
    numbers = 0 if pipeline is None else pipeline.parameters
    return FULL_BYTES * numbers, _STORED_BYTES * numbers


def pipeline_operations(pipeline: SentencePipeline | None, texts: int) -> Iterator[OperationPart]:
    """Products and biases of dense layers, for so many texts; of None nothing."""
    for name, module in _modules(pipeline):
        weight = module.tensors.get("linear.weight")
        if weight is None or not module.kind.endswith("Dense"):
            continue
        yield kept_part(name, "head", texts * weight.numel(), "once a text")
        rows = texts * len(weight)
        tanh = str(module.values.get("activation_function", "Tanh")).endswith("Tanh")
        flops = costs.ADD * rows * ("linear.bias" in module.tensors) + costs.TANH * rows * tanh
        if flops:
            note = "bias and tanh" if tanh else "bias"
            yield elementwise_part(f"{name} ({note})", "head", flops, flops)
