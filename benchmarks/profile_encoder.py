"""Where the time of a binary BERT-base goes, and how far it is from the limit of this machine.

    python benchmarks/profile_encoder.py [--batch 1 --length 128 --threads 1 --rounds 15]

Stages are told apart by running the parts alone: the whole model, its layers, and the products of
its linears. Attention's products are counted at the rate of the linears'; what is left of a layer
is shifts, signs, softmax, norms and estimators. The limit is the time that all binary
multiply-accumulates take on registers (native.register_rate).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from random_artefact import bert_base, write_random_artefact
from rich.console import Console
from rich.table import Table
from torch import nn

from bipft_compress import Recipe, load
from bipft_compress.benchmarking.peers import torch_call
from bipft_compress.benchmarking.timing import interleaved, ratio, torch_threads
from bipft_compress.cli import set_up
from bipft_compress.provenance import machine
from bipft_compress.runtime.native import chosen_path, register_rate
from bipft_compress.runtime.ops import binary_product, prepare_weights, row_bytes

ATTENTION = 4
"""Products of hidden by hidden in a layer: query, key, value, output."""


def product_call(count: int, width: int, out: int, path: str):
    """A product of random signs."""
    activations = torch.randint(256, (count, row_bytes(width)), dtype=torch.uint8)
    bits = torch.randint(256, (out, -(-width // 8)), dtype=torch.uint8)
    weights = prepare_weights(bits, width, path)
    return lambda: binary_product(activations, weights, width, out, path)


def profile(model: nn.Module, batch: int, length: int, threads: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of each stage of a forward pass, and what they are compared with."""
    config, path = model.config, chosen_path()
    hidden, ffn, layers = (
        config.hidden_size, config.intermediate_size, config.num_hidden_layers,
    )  # fmt: skip
    tokens = batch * length
    ids = torch.randint(config.vocab_size, (batch, length))
    x, mask = torch.randn(batch, length, hidden), torch.ones_like(ids).bool()
    packed = [layer.packed for layer in model.encoder.layer]
    # As many weights as the model has, and as long a run: the same caches, the same interruptions.
    shapes = [*ATTENTION * [(hidden, hidden)], (hidden, ffn), (ffn, hidden)] * layers
    products = [product_call(tokens, width, out, path) for width, out in shapes]

    def all_layers() -> None:
        state = x
        for layer in packed:
            state = layer(state, mask)

    def linears() -> None:
        for product in products:
            product()

    rates: list[float] = []
    calls = {
        "whole": torch_call(model, ids, mask.long()),
        "layers": all_layers,
        "linears": linears,
        "limit": lambda: rates.append(register_rate(path, threads)),
    }
    with torch_threads(threads):
        for call in calls.values():
            call()
        rates.clear()
        seconds = interleaved(calls, rounds)
        computer = machine()
    # A share is that of its round: the speed of a shared machine changes between rounds.
    whole = 1e3 * statistics.median(seconds["whole"])
    inside, linear = (
        whole / ratio(seconds["whole"], seconds[name]) for name in ("layers", "linears")
    )
    linear_macs = layers * tokens * (ATTENTION * hidden**2 + 2 * hidden * ffn)
    attention_macs = layers * batch * 2 * length**2 * hidden
    attention = linear * attention_macs / linear_macs
    macs = (linear_macs + attention_macs) / 1e9
    limit = whole * statistics.median(
        macs / rate / taken for rate, taken in zip(rates, seconds["whole"], strict=True)
    )
    return {
        "batch": batch,
        "sequence_length": length,
        "threads": threads,
        "machine": computer,
        "path": path,
        "milliseconds": {
            "linear products": linear,
            "attention products": attention,
            "rest of the layers": inside - linear - attention,
            "embeddings, pooler, Python": whole - inside,
        },
        "whole_ms": whole,
        "binary_gmacs": macs,
        "product_gmacs_per_second": linear_macs / linear / 1e6,
        "limit_gmacs_per_second": 1e3 * macs / limit,
        "limit_ms": limit,
    }


def profile_table(stages: dict[str, Any]) -> Table:
    """Stages, their shares, and the limit."""
    whole = stages["whole_ms"]
    table = Table(
        "Stage", "ms", "share",
        title=f"{stages['batch']} x {stages['sequence_length']} tokens, "
        f"{stages['threads']} threads: where the time goes",
        title_justify="left",
    )  # fmt: skip
    for name, value in stages["milliseconds"].items():
        table.add_row(name, f"{value:.1f}", f"{value / whole:.0%}")
    table.add_row("whole model", f"{whole:.1f}", "100%", end_section=True)
    limit, fastest = stages["limit_ms"], stages["limit_gmacs_per_second"]
    table.add_row(
        f"limit: {stages['binary_gmacs']:.1f} GMAC at {fastest:.0f} GMAC/s",
        f"{limit:.1f}",
        f"{limit / whole:.0%}",
    )
    rate = stages["product_gmacs_per_second"]
    table.add_row(
        "our product",
        f"{rate:.0f} GMAC/s",
        f"{rate / fastest:.0%} of the limit",
    )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    set_up(quiet=True)
    with tempfile.TemporaryDirectory() as folder:
        write_random_artefact(Path(folder), bert_base(), Recipe.load(arguments.recipe))
        model, _, _ = load(folder)
    stages = profile(model, arguments.batch, arguments.length, arguments.threads, arguments.rounds)
    console = Console()
    console.print(profile_table(stages))
    console.print(f"{stages['machine']}; kernels: {stages['path']}")


if __name__ == "__main__":
    main()
