"""Writing is all or nothing, also when the disk is full."""

from __future__ import annotations

import errno
import os

import pytest

from bipft_compress.errors import CheckpointError, OutputError
from bipft_compress.files import atomic_directory, check_output, read_json, sha256, write_atomically


def _full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _listing(path) -> dict[str, str]:
    return {str(p.relative_to(path)): p.read_text() for p in path.rglob("*") if p.is_file()}


def _write(path, fault: BaseException | None = None, overwrite: bool = False) -> None:
    with atomic_directory(path, overwrite) as work:
        (work / "new.txt").write_text("new")
        if fault is not None:
            raise fault


@pytest.fixture
def old(tmp_path):
    """A directory that is already there."""
    (tmp_path / "out" / "deep").mkdir(parents=True)
    (tmp_path / "out" / "deep" / "old.txt").write_text("old")
    return tmp_path / "out"


def test_a_directory_appears_whole(tmp_path):
    target = tmp_path / "new" / "out"
    with atomic_directory(target) as work:
        (work / "a.txt").write_text("a")
        (work / "sub").mkdir()
        (work / "sub" / "b.txt").write_text("b")
        assert not target.exists()
    assert _listing(tmp_path) == {"new/out/a.txt": "a", "new/out/sub/b.txt": "b"}
    assert os.listdir(target.parent) == ["out"]
    assert target.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt, FileNotFoundError])
def test_nothing_is_left_of_a_failed_directory(tmp_path, fault):
    with pytest.raises(fault):
        _write(tmp_path / "out", fault("stop"))
    assert os.listdir(tmp_path) == []


def test_what_is_there_is_refused_and_kept(old):
    with pytest.raises(OutputError, match=r"already exists.*--overwrite"):
        _write(old)
    assert _listing(old) == {"deep/old.txt": "old"}


def test_an_empty_directory_is_no_obstacle(tmp_path):
    (tmp_path / "out").mkdir()
    with atomic_directory(tmp_path / "out") as work:
        (work / "a").write_text("a")
    assert _listing(tmp_path) == {"out/a": "a"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_is_never_replaced_by_a_directory(tmp_path, overwrite):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError, match="is a file"):
        check_output(tmp_path / "out", overwrite)


def test_overwriting_replaces_everything(old):
    with atomic_directory(old, overwrite=True) as work:
        (work / "new.txt").write_text("new")
        assert _listing(old) == {"deep/old.txt": "old"}
    assert _listing(old) == {"new.txt": "new"}
    assert os.listdir(old.parent) == ["out"]


def test_a_failed_overwrite_keeps_the_old(old):
    with pytest.raises(RuntimeError):
        _write(old, RuntimeError("stop"), overwrite=True)
    assert _listing(old.parent) == {"out/deep/old.txt": "old"}


@pytest.mark.parametrize("failing", [1, 2])
def test_a_full_disk_at_the_last_step_keeps_the_old(old, monkeypatch, failing):
    """Whichever of the two renames fails, the old directory is back in its place."""
    replace, calls = os.replace, []

    def sometimes(source, target):
        calls.append(source)
        if len(calls) == failing:
            _full()
        replace(source, target)

    monkeypatch.setattr(os, "replace", sometimes)
    with pytest.raises(OutputError, match="No space left"):
        _write(old, overwrite=True)
    assert _listing(old.parent) == {"out/deep/old.txt": "old"}
    assert os.listdir(old.parent) == ["out"]


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "No space left"),
        (errno.EDQUOT, "No space left"),
        (errno.EACCES, "cannot be written"),
        (errno.EROFS, "cannot be written"),
    ],
)
def test_faults_while_writing_are_told(tmp_path, number, says):
    with pytest.raises(OutputError, match=says):
        _write(tmp_path / "out", OSError(number, os.strerror(number)))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("function", ["fsync", "replace", "fdopen"])
def test_a_file_keeps_its_old_content_when_writing_fails(tmp_path, monkeypatch, function):
    path = tmp_path / "record.json"
    write_atomically(path, "old")
    monkeypatch.setattr(os, function, _full)
    with pytest.raises(OutputError, match="No space left"):
        write_atomically(path, "new")
    monkeypatch.undo()
    assert _listing(tmp_path) == {"record.json": "old"}


def test_a_file_is_written_and_replaced(tmp_path):
    path = tmp_path / "sub" / "record.json"
    for text in ("first, longer", "ünïcode"):
        write_atomically(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert os.listdir(path.parent) == ["record.json"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "is missing"),
        (b'{"a": ', "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[1, 2]", "does not hold a JSON object"),
    ],
)
def test_bad_json_is_told(tmp_path, content, says):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=says):
        read_json(path)


def test_json_and_checksum(tmp_path):
    (tmp_path / "x.json").write_text('{"a": [1]}')
    assert read_json(tmp_path / "x.json") == {"a": [1]}
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(tmp_path / "abc") == known
