"""Milliseconds of one encoder layer for each number of bits, on this machine's kernels.

    python benchmarks/layer_by_bits.py [--width 384 --heads 12 --inner 1536] [--length 128]

Weights are random, their speed is not; the shortest of several runs of one sequence, on one thread.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch
from rich.console import Console
from rich.table import Table
from transformers import BertConfig

from bipft_compress import Recipe, loading
from bipft_compress.allocation.latency import layer_seconds
from bipft_compress.counting import read_shape
from bipft_compress.counting.shapes import LayerShape
from bipft_compress.runtime.native import chosen_path
from bipft_compress.structure.swap import on_meta, swap

BITS = ((1, 1, 1), (1, 1, 2), (1, 1, 8), (2, 2, 2), (2, 4, 4), (4, 8, 4), (4, 8, 8))
"""Of weights, of activations, and of all codes of attention."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("width", 384), ("heads", 12), ("inner", 1536), ("length", 128)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = BertConfig(
        hidden_size=arguments.width, num_attention_heads=arguments.heads,
        intermediate_size=arguments.inner, num_hidden_layers=1, vocab_size=8,
    )  # fmt: skip
    empty = on_meta(loading.model_from_config(config))
    encoder, _ = swap(empty, Recipe())
    layer = read_shape(empty, encoder, 1, arguments.length).layers[0]
    table = Table("bits", f"ms, {arguments.length} tokens, {chosen_path()}", title_justify="left")
    for weights, activations, attention in BITS:
        changed = _with_bits(layer, weights, activations, attention)
        name = f"W{weights}A{activations}, attention {attention} x {attention}"
        table.add_row(name, f"{1000 * layer_seconds(changed, arguments.length):.2f}")
    Console().print(table)


def _with_bits(layer: LayerShape, weights: int, activations: int, attention: int) -> LayerShape:
    linears = {
        name: replace(bits, weight_bits=weights, bits=activations)
        for name, bits in layer.linears.items()
    }
    core = replace(layer.attention, bits=attention, key_value_bits=attention)
    return replace(layer, linears=linears, attention=core)


if __name__ == "__main__":
    main()
