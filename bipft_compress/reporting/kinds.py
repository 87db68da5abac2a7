"""What kinds of operation and memory and stages of a pass are called, in the order shown."""

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

STAGES = {
    "embeddings": "embeddings",
    "linear": "linear products",
    "attention": "attention products",
    "rest": "rest of the layers",
    "pooler": "pooler",
    "outside": "Python, torch, heads",
}
"""Stages of a forward pass, see `schema.Profile`."""
