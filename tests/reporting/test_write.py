import os

import pytest

from bipft_compress.errors import OutputError
from bipft_compress.reporting import Report, write_report
from bipft_compress.reporting import write as module

NAMES = {"report.json", "report.md", "report.html"}


def test_three_files_and_nothing_else(report, tmp_path):
    out = tmp_path / "new" / "report"
    paths = write_report(report, out)
    assert {path.name for path in paths} == set(os.listdir(out)) == NAMES
    assert Report.model_validate_json((out / "report.json").read_text()) == report


def test_a_fault_leaves_the_old_files_whole(report, tmp_path, monkeypatch):
    write_report(report, tmp_path)
    before = {name: (tmp_path / name).read_text() for name in NAMES}

    def broken(*_):
        raise ValueError("cannot draw")

    monkeypatch.setattr(module, "render_html", broken)
    with pytest.raises(ValueError, match="cannot draw"):
        write_report(report.model_copy(update={"batch": 5}), tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(ValueError, match="cannot draw"):
        write_report(report.model_copy(update={"batch": 5}), tmp_path)
    assert {name: (tmp_path / name).read_text() for name in os.listdir(tmp_path)} == before


def test_a_new_directory_appears_whole(report, tmp_path, monkeypatch):
    """Stopped between two files, it can be written again without --overwrite."""
    write, written = module.write_atomically, []

    def stop(path, text):
        if written:
            raise KeyboardInterrupt
        written.append(path)
        write(path, text)

    monkeypatch.setattr(module, "write_atomically", stop)
    with pytest.raises(KeyboardInterrupt):
        write_report(report, tmp_path / "out")
    assert written
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_written(report, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_report(report, tmp_path / "file")
