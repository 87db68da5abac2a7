import shutil
import sys

import pytest

from bipft_compress import cli, load
from bipft_compress.benchmarking import peers, run
from bipft_compress.benchmarking.run import OURS, Bench, Setting
from bipft_compress.checkpoint.record import Record
from bipft_compress.errors import UserError
from bipft_compress.reporting import Measured, Report

from ..sealing import edit_record


@pytest.fixture(autouse=True)
def only_torch(monkeypatch):
    """Fast, and the same wherever the tests run; and no process of its own for sizes."""

    def broken(_):
        raise RuntimeError("broken here")

    monkeypatch.setattr(peers, "PEERS", {peers.PYTORCH: peers.pytorch, "other": broken})
    monkeypatch.setattr(run, "resident_bytes", lambda loader, _: {"packed": 3}.get(loader, 90))


@pytest.fixture
def copy(artefact, tmp_path):
    """An artefact that a test may change."""
    return shutil.copytree(artefact, tmp_path / "packed")


def test_a_measurement(artefact):
    measured = Bench(artefact).measure(Setting(batch=2, sequence_length=9, rounds=3))
    assert (measured.batch, measured.sequence_length, measured.rounds) == (2, 9, 3)
    assert "with its own weights" in measured.original
    ours, theirs, other = measured.systems
    assert (ours.name, ours.ratio, ours.resident_bytes) == (OURS, 1.0, 3)
    assert ours.file_bytes == (artefact / "model.safetensors").stat().st_size
    assert theirs.name == peers.PYTORCH
    assert theirs.milliseconds > 0
    assert theirs.resident_bytes == 90
    assert other.milliseconds is None
    assert other.note == "failed: broken here"
    assert measured.profile.milliseconds > 0


def test_an_original_that_is_gone_is_replaced_and_said_so(copy):
    shutil.rmtree(copy.parent / "original", ignore_errors=True)
    edit_record(copy, teacher=str(copy.parent / "gone"))
    measured = Bench(copy).measure(Setting(sequence_length=5, rounds=1))
    assert measured.original.startswith("an untrained model of its shape")
    assert measured.systems[1].milliseconds


def test_faults(artefact):
    with pytest.raises(UserError, match="is not packed"):
        Bench(artefact.parent / "original")
    with pytest.raises(UserError, match="more than the 40 tokens"):
        Bench(artefact).measure(Setting(sequence_length=41))


@pytest.fixture
def call(monkeypatch, capfd):
    """`call(*arguments)`: exit code and standard output."""

    def run_command(*arguments):
        monkeypatch.setattr(sys, "argv", ["bipft-compress", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code or 0, capfd.readouterr().out

    return run_command


SHORT = ("--sequence-length", 9, "--rounds", 2)


def test_the_command_adds_to_record_and_report(call, copy):
    code, text = call("benchmark", copy, *SHORT)
    assert code == 0
    for shown in (OURS, peers.PYTORCH, "Where the time goes", "broken here", "report.html"):
        assert shown in text
    made = Report.model_validate_json((copy / "report.json").read_text())
    assert made.measured == Measured.model_validate(Record.read(copy).measured)
    assert made.measured.systems[0].name == OURS
    assert "benchmark" in made.provenance
    for name in ("report.md", "report.html"):
        text = (copy / name).read_text()
        assert "Measured beside peers" in text
        assert "linear products" in text
    # The artefact is whole: every checksum still holds.
    assert load(copy)[2].measured


def test_json_and_another_directory(call, copy, tmp_path):
    code, text = call("benchmark", copy, *SHORT, "--out", tmp_path / "report", "--json")
    assert code == 0
    measured = Measured.model_validate_json(text)
    assert measured.version == 2
    assert len(measured.systems) == 3
    assert (tmp_path / "report" / "report.html").is_file()
    assert not (copy / "report.html").exists()
