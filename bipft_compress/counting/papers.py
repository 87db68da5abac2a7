"""What papers on binary BERTs print for a geometry and bits."""

from __future__ import annotations

from bipft_compress.counting.operations import count_operations
from bipft_compress.counting.pipeline import FULL_BYTES
from bipft_compress.counting.schema import OPERATION_KINDS, PapersConvention, PapersPart
from bipft_compress.counting.shapes import ModelShape

LEFT_OUT = (
    "Estimators, which BiPFT adds to both sums.",
    "Task heads, which differ from task to task (operations).",
    "Weight scales, shifts and activation scales (memory).",
    "Position and token-type embeddings, keys and queries of positions, the pooler, task heads and "
    "the layers' full-precision parts (compressed memory only).",
    "Packed rows that do not fill whole bytes (memory).",
)


def papers_convention(shape: ModelShape, vocabulary: int, parameters: int) -> PapersConvention:
    """Operations without estimators, and one bit a weight of encoder linears and word embeddings.

    Biases and norms are stored in full precision. Reproduces the 22.5 to 0.4 GFLOPs and 418 to
    13.4 MB of BiBERT (Qin et al. 2022) and BiT (Liu et al. 2022) for BERT-base.

    Args:
        shape: of the model.
        vocabulary: rows of the word embeddings.
        parameters: numbers of the original model.
    """
    operations = count_operations(shape.without_estimators().without_heads())
    blocks = [layer.spec for layer in shape.layers]
    linears = [linear for block in blocks for linear in block.linears()]
    norms = [norm for block in blocks for norm in block.norms().values()]
    norms += [part.norm for part in shape.outside if part.norm and part.kind != "head"]
    weights = {
        "linear weights": sum(linear.inputs * linear.outputs for linear in linears),
        "word embeddings": vocabulary * shape.tables[0].width,
    }
    vectors = {
        "linear biases": sum(linear.outputs for linear in linears if linear.bias),
        "gains and biases of norms": sum((1 + norm.bias) * norm.width for norm in norms),
    }
    parts = [
        PapersPart(
            name=f"{OPERATION_KINDS[kind]} (operations)",
            operations_full_precision=count.full_precision,
            operations_compressed=count.compressed,
        )
        for kind, count in operations.by_kind.items()
    ]
    for numbers, is_packed in ((weights, True), (vectors, False)):
        for name, count in numbers.items():
            full = count * FULL_BYTES
            parts.append(
                PapersPart(
                    name=f"{name} (memory)",
                    memory_full_precision_bytes=full,
                    memory_compressed_bytes=-(-count // 8) if is_packed else full,
                )
            )
    return PapersConvention(
        operations_full_precision=operations.full_precision,
        operations_compressed=operations.compressed,
        memory_full_precision_bytes=parameters * FULL_BYTES,
        memory_compressed_bytes=sum(part.memory_compressed_bytes or 0 for part in parts),
        parts=parts,
        left_out=list(LEFT_OUT),
    )
