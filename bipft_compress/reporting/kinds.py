"""What the kinds of operation and memory are called, in the order shown."""

from __future__ import annotations

OPERATION_KINDS = {
    "linear": "linear layers",
    "attention": "attention products",
    "estimator": "estimators",
    "softmax": "softmax",
    "activation": "activation function",
    "layer_norm": "LayerNorm",
    "epilogue": "scales, biases, residual adds",
    "thresholds": "coding activations",
    "embeddings": "embeddings",
    "pooler": "pooler",
    "head": "task head",
}
"""Kinds of `OperationPart`."""

MEMORY_KINDS = {
    "linear_weights": "linear weights",
    "estimators": "estimators",
    "vectors": "biases, scales, shifts, LayerNorms",
    "word_embeddings": "word embeddings",
    "position_embeddings": "position and type embeddings",
    "pooler": "pooler",
    "head": "task head, projections",
}
"""Kinds of `MemoryPart`."""
