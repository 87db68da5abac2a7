"""Binary products and linears alone, beside fp32, int8 and the machine's own limit.

    python benchmarks/binary_product.py [--widths 768 3072 --outs 768 --counts 1 128] [--quick]
    python benchmarks/binary_product.py --pairs [--shapes 128x768x768 128x3072x768]

The first prints the product of one bit by one in GMAC/s. Every system multiplies (M, K) activations
by (N, K) weights that it prepared before. Ours and NumKong's Hamming distances (pip install
numkong) are kernels called on arrays, activations packed already; torch's are modules, and int8
quantizes its own activations. The limit is what this path's instructions reach on registers,
measured in the same rounds.

With `--pairs`, whole linears from fp32 to fp32, for every number of bits of weights and of
activations: microseconds, and how many times longer ONNX Runtime's dynamically quantized linear
takes (DynamicQuantizeLinear and MatMulInteger; pip install onnx onnxruntime).

All medians, one process, systems in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from bipft_compress.benchmarking.profile import product_call
from bipft_compress.benchmarking.timing import Call, interleaved, ratio, torch_threads
from bipft_compress.nn import BinaryLinear
from bipft_compress.provenance import machine
from bipft_compress.runtime.modules import PackedLinear
from bipft_compress.runtime.native import chosen_path, register_rate
from bipft_compress.runtime.ops import binary_linear
from bipft_compress.runtime.program import compile_linear

SECONDS = 0.02
"""That one measurement should take at least: short calls are repeated."""

SLICE = 0.002
"""The same for `--pairs`: shorter than what a scheduler gives to others on a shared machine."""

WEIGHTS, ACTIVATIONS = (1, 2, 3, 4), (1, 2, 4, 8)
"""Bits."""

SHAPES = ["128x768x768", "128x768x3072", "128x3072x768", "128x384x1536"]


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


def binary_linear_call(x: torch.Tensor, out: int, weight_bits: int, bits: int) -> Call:
    """A linear of random weights, from fp32 to fp32."""
    width = x.shape[-1]
    linear = BinaryLinear(width, out, bits=bits, weight_bits=weight_bits).requires_grad_(False)
    linear.activation_scale.fill_(3.0 / 2**bits)
    shape = (weight_bits, out, -(-width // 8))
    planes = torch.randint(256, shape if weight_bits > 1 else shape[1:], dtype=torch.uint8)
    program = compile_linear(PackedLinear(linear, planes), chosen_path())
    return lambda: binary_linear(x, program, out)


def onnxruntime_call(x: torch.Tensor, out: int, threads: int) -> Call:
    """ONNX Runtime's linear of the same shape with its dynamic quantization."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper
    from onnxruntime.quantization import QuantType, quantize_dynamic

    count, width = x.shape
    weight = numpy_helper.from_array(torch.randn(width, out).numpy(), "weight")
    bias = numpy_helper.from_array(torch.randn(out).numpy(), "bias")
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["y"]),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [count, width])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [count, out])
    graph = helper.make_graph(nodes, "linear", [given], [result], [weight, bias])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_dynamic(model, path, weight_type=QuantType.QInt8)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    array = x.numpy()
    return lambda: session.run(None, {"x": array})


def measure_pairs(count: int, width: int, out: int, threads: int, rounds: int) -> dict[str, Any]:
    """Microseconds of every pair of bits and of int8, and int8's time for a pair's."""
    x = torch.randn(count, width)
    calls = {"int8": onnxruntime_call(x, out, threads)}
    calls |= {f"W{m}A{k}": binary_linear_call(x, out, m, k) for m in WEIGHTS for k in ACTIVATIONS}
    many = {name: repeated(call, SLICE) for name, call in calls.items()}
    seconds = interleaved({name: call for name, (call, _) in many.items()}, rounds, threads)
    each = {name: [t / many[name][1] for t in times] for name, times in seconds.items()}
    return {
        "microseconds": {name: 1e6 * statistics.median(times) for name, times in each.items()},
        "ratios": {name: ratio(each["int8"], each[name]) for name in calls if name != "int8"},
    }


def show_pairs(shapes: list[str], threads: int, rounds: int) -> list[dict[str, Any]]:
    """Print a table a shape; all figures."""
    figures = []
    console = Console()
    for shape in shapes:
        count, width, out = (int(n) for n in shape.split("x"))
        measured = measure_pairs(count, width, out, threads, rounds)
        figures.append({"count": count, "width": width, "out": out, **measured})
        spent, ratios = measured["microseconds"], measured["ratios"]
        table = Table(
            title=f"{count} x {width} by {out} on {threads} threads: ONNX Runtime int8 takes "
            f"{spent['int8']:.0f} us; us of ours (times faster)",
            title_justify="left",
        )
        for heading in ("", *(f"A{k}" for k in ACTIVATIONS)):
            table.add_column(heading, justify="right")
        for m in WEIGHTS:
            cells = [f"{spent[f'W{m}A{k}']:.0f} ({ratios[f'W{m}A{k}']:.2f})" for k in ACTIVATIONS]
            table.add_row(f"W{m}", *cells)
        console.print(table)
    console.print(f"{machine()}; kernels: {chosen_path()}")
    return figures


def repeated(call: Call, seconds: float = SECONDS) -> tuple[Call, int]:
    """The call as often as takes `seconds`, and how often that is."""
    call()
    once = min(interleaved({"": call}, 5)[""])
    times = max(1, round(seconds / once))

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
    reached = {
        name: macs * times / statistics.median(seconds[name]) for name, (_, times) in many.items()
    }
    return reached | {"limit": statistics.median(rates)}


def show_products(arguments: argparse.Namespace) -> list[dict[str, float]]:
    """Print the table of products; all figures."""
    figures = []
    title = f"GMAC/s of (M, K) by (N, K); {machine()}; kernels: {chosen_path()}"
    table = Table(title=title, title_justify="left")
    for width in arguments.widths:
        for out in arguments.outs:
            for count in arguments.counts:
                rates = measure(count, width, out, arguments.threads, arguments.rounds)
                figures.append({"count": count, "width": width, "out": out, **rates})
                if not table.columns:
                    for heading in ("K", "N", "M", *rates, "ours / fp32", "ours / limit"):
                        table.add_column(heading, justify="right")
                table.add_row(
                    *(str(n) for n in (width, out, count)),
                    *(f"{rate:.0f}" for rate in rates.values()),
                    f"{rates['ours'] / rates['fp32']:.1f}",
                    f"{rates['ours'] / rates['limit']:.2f}",
                )
    Console().print(table)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[384, 768, 1536, 3072])
    parser.add_argument("--outs", type=int, nargs="+", default=[768, 3072])
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 4, 16, 128, 512])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two widths, three counts")
    parser.add_argument("--pairs", action="store_true", help="linears of several bits, beside int8")
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="of --pairs: MxKxN")
    parser.add_argument("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.widths, arguments.outs, arguments.counts = [768, 3072], [768], [1, 16, 128]
    warnings.simplefilter("ignore")

    with torch_threads(arguments.threads):
        if arguments.pairs:
            figures = show_pairs(arguments.shapes, arguments.threads, arguments.rounds)
        else:
            figures = show_products(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
