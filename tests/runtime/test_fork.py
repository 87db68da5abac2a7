"""A forked child runs the model, whatever its parent ran before."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork"
)

PROGRAM = """
import multiprocessing, sys
import torch
from bipft_compress.nn import BinaryLinear
from bipft_compress.runtime.modules import PackedLinear
from bipft_compress.runtime.native import paths
from bipft_compress.runtime.ops import binary_linear
from bipft_compress.runtime.program import compile_linear

torch.set_num_threads(2)
planes = torch.randint(256, (2, 64, 8), dtype=torch.uint8)
linear = PackedLinear(BinaryLinear(64, 64, weight_bits=2).requires_grad_(False), planes)
program = compile_linear(linear, paths()[0])
x = torch.randn(4096, 64)

def run():
    # torch's own product is large enough for its threads too.
    return binary_linear(x, program, 64).sum(1) + (x @ x.T).sum(1)

def child(queue):
    queue.put(run().tolist())

if "torch" in sys.argv:
    x @ x.T
if "kernels" in sys.argv:
    run()
context = multiprocessing.get_context("fork")
queue = context.SimpleQueue()
process = context.Process(target=child, args=(queue,))
process.start()
process.join(60)
if process.is_alive():
    process.kill()
    sys.exit("the child hangs")
torch.testing.assert_close(torch.tensor(queue.get()), run())
print("same")
"""


@pytest.mark.parametrize("before", [[], ["torch"], ["kernels"]], ids=lambda before: str(before))
def test_a_forked_child_runs_the_kernels(before):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *before],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "same\n"
