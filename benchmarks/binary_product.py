"""The binary product alone, in GMAC/s, beside fp32 and int8 linears and the machine's own limit.

    python benchmarks/binary_product.py [--widths 768 3072 --outs 768 --counts 1 128] [--quick]

Every system multiplies (M, K) activations by (N, K) weights that it prepared before. Ours and
NumKong's Hamming distances (pip install numkong) are kernels called on arrays, activations packed
already; torch's are modules, and int8 quantizes its own activations. The limit is what this path's
instructions reach on registers, measured in the same rounds. All medians, one process, systems in
turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from bipft_compress.benchmarking.profile import product_call
from bipft_compress.benchmarking.timing import interleaved, torch_threads
from bipft_compress.provenance import machine
from bipft_compress.runtime.native import chosen_path, register_rate

SECONDS = 0.02
"""That one measurement should take at least: short calls are repeated."""


def linear_call(count: int, width: int, out: int, int8: bool):
    """torch's fp32 linear, or its dynamically quantized one."""
    model = nn.Sequential(nn.Linear(width, out)).eval()
    if int8:
        model = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    x = torch.randn(count, width)
    return torch.inference_mode()(lambda: model(x))


def numkong_call(count: int, width: int, out: int):
    """Hamming distances of packed rows against packed weights, on one thread."""
    import numkong

    rows = torch.randint(256, (count, width // 8), dtype=torch.uint8).numpy()
    bits = torch.randint(256, (out, width // 8), dtype=torch.uint8).numpy()
    packed = numkong.hammings_pack(bits, dtype="uint1")
    result = numkong.zeros((count, out), dtype="uint32")
    return lambda: numkong.hammings_packed(rows, packed, out=result)


def repeated(call: Callable[[], object]) -> tuple[Callable[[], object], int]:
    """The call as often as takes `SECONDS`, and how often that is."""
    call()
    (once,) = interleaved({"": call}, 1)[""]
    times = max(1, round(SECONDS / once))

    def many() -> None:
        for _ in range(times):
            call()

    return many, times


def measure(count: int, width: int, out: int, threads: int, rounds: int) -> dict[str, float]:
    """GMAC/s by system."""
    path = chosen_path()
    systems = {
        "ours": product_call(count, width, out, path),
        "fp32": linear_call(count, width, out, int8=False),
        "int8": linear_call(count, width, out, int8=True),
    }
    if threads == 1:
        with suppress(ImportError):
            systems["NumKong"] = numkong_call(count, width, out)
    many = {name: repeated(call) for name, call in systems.items()}
    rates: list[float] = []
    calls = {name: call for name, (call, _) in many.items()}
    calls["limit"] = lambda: rates.append(register_rate(path, threads))
    seconds = interleaved(calls, rounds)
    macs = count * width * out / 1e9
    found = {
        name: macs * times / statistics.median(seconds[name]) for name, (_, times) in many.items()
    }
    return found | {"limit": statistics.median(rates)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[384, 768, 1536, 3072])
    parser.add_argument("--outs", type=int, nargs="+", default=[768, 3072])
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 4, 16, 128, 512])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two widths, three counts")
    parser.add_argument("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.widths, arguments.outs, arguments.counts = [768, 3072], [768], [1, 16, 128]
    warnings.simplefilter("ignore")

    table, figures = None, []
    with torch_threads(arguments.threads):
        title = f"GMAC/s of (M, K) by (N, K); {machine()}; kernels: {chosen_path()}"
        for width in arguments.widths:
            for out in arguments.outs:
                for count in arguments.counts:
                    found = measure(count, width, out, arguments.threads, arguments.rounds)
                    figures.append({"count": count, "width": width, "out": out, **found})
                    if table is None:
                        table = Table(title=title, title_justify="left")
                        for heading in ("K", "N", "M", *found, "ours / fp32", "ours / limit"):
                            table.add_column(heading, justify="right")
                    ours, limit = found["ours"], found["limit"]
                    table.add_row(
                        *(str(n) for n in (width, out, count)),
                        *(f"{rate:.0f}" for rate in found.values()),
                        f"{ours / found['fp32']:.1f}",
                        f"{ours / limit:.2f}",
                    )
    assert table is not None
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
