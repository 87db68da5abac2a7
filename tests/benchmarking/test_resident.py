import pytest

from bipft_compress.benchmarking import resident


def test_a_system_that_does_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr(resident, "MAPS", tmp_path / "missing")
    assert resident.resident_bytes("packed", tmp_path) is None


def test_what_cannot_be_loaded_has_no_size(tmp_path):
    assert resident.resident_bytes("packed", tmp_path) is None


@pytest.mark.slow
@pytest.mark.skipif(not resident.MAPS.exists(), reason="this system does not tell")
def test_weights_are_resident(make_model, tokenizer, tmp_path):
    """A model of 40 MB; what else loading allocates is small beside it."""
    model = make_model("bert", intermediate_size=60_000)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    size = (tmp_path / "model.safetensors").stat().st_size
    for loader in ("original", "untrained"):
        assert resident.resident_bytes(loader, tmp_path) == pytest.approx(size, rel=0.15)
