import importlib.util

import pytest
import torch

from bipft_compress.benchmarking import peers
from bipft_compress.benchmarking.peers import Original, Ready, prepare


@pytest.fixture
def original(make_model, tmp_path):
    model = make_model("bert")
    model.set_attn_implementation("sdpa")
    generator = torch.Generator().manual_seed(0)
    return Original(model, torch.randint(5, 101, (2, 9), generator=generator), 1, tmp_path)


def installed(*packages):
    return all(importlib.util.find_spec(package) for package in packages)


ONNX = "onnx", "onnxscript", "onnxruntime"


@pytest.mark.slow
@pytest.mark.skipif(not installed(*ONNX, "openvino"), reason="peers are not installed")
def test_every_installed_peer_computes_what_the_original_does(original):
    ready, missing = prepare(original)
    assert not missing
    assert set(ready) == set(peers.PEERS)
    with torch.inference_mode():
        expected = original.model(original.ids, original.mask)[0]
    for name, made in ready.items():
        output = made.call()
        values = next(iter(output.values())) if hasattr(output, "values") else output[0]
        tolerance = 0.3 if "int8" in name else 1e-3
        torch.testing.assert_close(
            torch.as_tensor(values), expected, atol=tolerance, rtol=tolerance, msg=name
        )
        assert made.file_bytes


@pytest.mark.slow
@pytest.mark.skipif(not installed(*ONNX), reason="ONNX Runtime is not installed")
def test_an_export_for_any_shape(original):
    original.any_shape = True
    ids = torch.randint(5, 101, (3, 14))
    mask = (torch.arange(14) < torch.tensor([[14], [3], [9]])).long()
    with torch.inference_mode():
        expected = original.model(ids, mask)[0]
    arrays = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
    for path, tolerance in ((original.onnx, 1e-3), (peers.onnx_int8(original), 0.3)):
        output = torch.from_numpy(peers.onnx_session(path, 1).run(None, arrays)[0])
        torch.testing.assert_close(
            output[mask.bool()], expected[mask.bool()], atol=tolerance, rtol=tolerance
        )


def test_a_peer_that_fails_is_reported_and_the_others_run(original, monkeypatch):
    def broken(_):
        raise RuntimeError("no such instruction\nand more")

    def missing(_):
        raise ModuleNotFoundError("No module named 'abacus'", name="abacus")

    def late(_):
        return Ready(lambda: 1 / 0)

    table = {"good": peers.pytorch, "broken": broken, "missing": missing, "late": late}
    monkeypatch.setattr(peers, "PEERS", table)
    ready, reasons = prepare(original)
    assert list(ready) == ["good"]
    assert reasons == {
        "broken": "failed: no such instruction",
        "missing": "not installed (abacus)",
        "late": "failed: division by zero",
    }


def test_without_any_package_torch_remains(original, monkeypatch):
    for package in (*ONNX, "openvino"):
        monkeypatch.setitem(__import__("sys").modules, package, None)
    ready, reasons = prepare(original)
    assert peers.PYTORCH in ready
    others = ("ONNX Runtime fp32", "ONNX Runtime int8 dynamic", "OpenVINO")
    assert all(reasons[name].startswith("not installed") for name in others)
