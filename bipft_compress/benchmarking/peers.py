"""The systems that a packed model is measured beside: one function each, all of the same original.

A peer takes an `Original` and returns what is `Ready` to run. What it needs it imports itself, so
that a missing package is a missing peer; whatever it raises is shown as the reason.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bipft_compress.benchmarking.timing import Call
from bipft_compress.errors import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class Original:
    """The full-precision model, what it is run on, and how.

    Args:
        model: in evaluation mode.
        ids: token ids, (batch, length).
        threads: that a peer may use; torch has them already.
        folder: for files, there as long as the peers are.
        any_shape: export for any batch and length, not for those of `ids` alone.
    """

    model: PreTrainedModel
    ids: Tensor
    threads: int
    folder: Path
    any_shape: bool = False

    @cached_property
    def mask(self) -> Tensor:
        """Attention mask: every token is real."""
        return torch.ones_like(self.ids)

    @cached_property
    def arrays(self) -> dict[str, Any]:
        """The inputs, as systems other than torch take them."""
        return {"input_ids": self.ids.numpy(), "attention_mask": self.mask.numpy()}

    @cached_property
    def onnx(self) -> Path:
        """The model exported for these inputs, or for any."""
        import onnx  # noqa: F401  torch says less clearly that it is missing
        import onnxscript  # noqa: F401

        path = self.folder / "model.onnx"
        free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
        torch.onnx.export(
            _FirstOutput(self.model).eval(),
            (self.ids, self.mask),
            str(path),
            input_names=["input_ids", "attention_mask"],
            dynamo=True,
            dynamic_shapes=(free, free) if self.any_shape else None,
            external_data=False,
            verbose=False,
        )
        return path


@dataclass(frozen=True)
class Ready:
    """A system ready to run."""

    call: Call
    """One forward pass."""
    file_bytes: int | None = None
    """Of its file with weights, where it has one."""
    note: str = ""


class _FirstOutput(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> Any:
        return self.model(input_ids=ids, attention_mask=mask)[0]


def torch_call(model: nn.Module, ids: Tensor, mask: Tensor) -> Call:
    """A forward pass of a transformers model."""

    def call() -> object:
        with torch.inference_mode():
            return model(input_ids=ids, attention_mask=mask)

    return call


def pytorch(original: Original) -> Ready:
    """The original as it is."""
    parameters = {id(tensor): tensor.nbytes for tensor in original.model.parameters()}
    return Ready(torch_call(original.model, original.ids, original.mask), sum(parameters.values()))


def pytorch_int8(original: Original) -> Ready:
    """Linear layers with 8-bit weights, activations quantized while it runs."""
    model = torch.ao.quantization.quantize_dynamic(original.model, {nn.Linear}, dtype=torch.qint8)
    path = original.folder / "int8.pt"
    torch.save(model.state_dict(), path)
    return Ready(torch_call(model, original.ids, original.mask), path.stat().st_size)


def onnxruntime(original: Original) -> Ready:
    """ONNX Runtime on the exported original."""
    return _onnx_ready(original.onnx, original)


def onnxruntime_int8(original: Original) -> Ready:
    """ONNX Runtime with its dynamic quantization."""
    return _onnx_ready(onnx_int8(original), original)


def onnx_int8(original: Original) -> Path:
    """File of the exported original with weights in 8 bits, activations quantized while it runs."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = original.folder / "int8.onnx"
    quantize_dynamic(original.onnx, path, weight_type=QuantType.QInt8)
    return path


def onnx_session(path: Path, threads: int) -> Any:
    """An ``onnxruntime.InferenceSession`` of a file, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _onnx_ready(path: Path, original: Original) -> Ready:
    session = onnx_session(path, original.threads)
    return Ready(lambda: session.run(None, original.arrays), path.stat().st_size)


def openvino(original: Original) -> Ready:
    """OpenVINO on the exported original, in the precision that it chooses."""
    import openvino as ov

    options = {"INFERENCE_NUM_THREADS": original.threads, "ENABLE_CPU_PINNING": False}
    compiled = ov.Core().compile_model(original.onnx, "CPU", options)
    precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    request = compiled.create_infer_request()
    return Ready(
        lambda: request.infer(original.arrays), original.onnx.stat().st_size, f"in {precision}"
    )


PYTORCH = "PyTorch fp32"
PEERS: dict[str, Callable[[Original], Ready]] = {
    PYTORCH: pytorch,
    "PyTorch int8 dynamic": pytorch_int8,
    "ONNX Runtime fp32": onnxruntime,
    "ONNX Runtime int8 dynamic": onnxruntime_int8,
    "OpenVINO": openvino,
}
"""Every peer, by the name that tables show."""


def prepare(original: Original) -> tuple[dict[str, Ready], dict[str, str]]:
    """The peers that run here, each run once; and why the others do not."""
    ready, missing = {}, {}
    for name, make in PEERS.items():
        try:
            with muted():
                system = make(original)
                system.call()
        except ImportError as error:
            missing[name] = f"not installed ({error.name})" if error.name else "not installed"
        except Exception as error:  # whatever ails a peer, the others are measured
            missing[name] = f"failed: {first_line(error)}"
        else:
            ready[name] = system
    return ready, missing


@contextmanager
def muted() -> Iterator[None]:
    """Without what exporters and quantizers print and log."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
