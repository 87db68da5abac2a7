"""Writing is all or nothing, destroys nothing unasked, and one run at a time writes an output."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from bipft_compress.errors import OutputError
from bipft_compress.files import (
    atomic_directory,
    check_output,
    claim_output,
    hidden_path,
    outputs,
    write_atomically,
)


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
def test_without_an_exchange_a_failed_rename_keeps_the_old(old, monkeypatch, failing):
    """Whichever of the two renames fails, the old directory is back in its place."""
    replace, calls = os.replace, []

    def sometimes(source, target):
        calls.append(source)
        if len(calls) == failing:
            raise PermissionError(1, "Operation not permitted")
        replace(source, target)

    monkeypatch.setattr(outputs, "_exchange", lambda *_: False)
    monkeypatch.setattr(os, "replace", sometimes)
    with pytest.raises(OutputError, match="cannot be written"):
        _write(old, overwrite=True)
    assert len(calls) >= failing
    assert _listing(old.parent) == {"out/deep/old.txt": "old"}
    assert os.listdir(old.parent) == ["out"]


def test_killed_between_two_renames_the_old_is_put_back(old):
    """Where a file system cannot exchange, the next run finds the old one under its hidden name."""
    os.replace(old, hidden_path(old, "old"))
    hidden_path(old, "new").mkdir()
    hidden_path(old, "lock").touch()
    with claim_output(old, overwrite=True):
        assert _listing(old) == {"deep/old.txt": "old"}
    assert os.listdir(old.parent) == ["out"]


def test_overwriting_leaves_no_moment_without_an_output(old):
    """One system call puts the new in the place of the old: a kill finds either."""
    (old / "new.txt").write_text("old")
    ready = multiprocessing.get_context("fork").Event()
    watcher = multiprocessing.get_context("fork").Process(target=_watch, args=(old, ready))
    watcher.start()
    ready.wait()
    for _ in range(300):
        _write(old, overwrite=True)
    assert watcher.is_alive(), "a moment without the output"
    watcher.kill()
    watcher.join()


def _watch(directory, ready):
    ready.set()
    while (directory / "new.txt").exists():
        pass


def test_a_file_is_written_and_replaced(tmp_path):
    path = tmp_path / "sub" / "record.json"
    for text in ("first, longer", "ünïcode"):
        write_atomically(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert os.listdir(path.parent) == ["record.json"]
    assert path.stat().st_mode & 0o777 == 0o644


SCRIPT = """
import sys, time
from pathlib import Path
from bipft_compress.files import atomic_directory
with atomic_directory(sys.argv[1], overwrite=True) as work:
    (work / "half.txt").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def writer(tmp_path):
    """Another process that is writing `tmp_path / "out"`."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "out")], stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"writing\n"
    yield process
    process.kill()
    process.wait()


def test_two_runs_do_not_write_one_output(writer, tmp_path):
    with pytest.raises(OutputError, match=r"Another run writes .*out now"):
        _write(tmp_path / "out")
    with pytest.raises(OutputError, match="Another run writes"):
        # The same place under another name.
        _write(tmp_path / "none" / ".." / "out")


def test_what_a_killed_run_left_is_cleared_by_the_next(writer, tmp_path):
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert sorted(os.listdir(tmp_path)) == [".out.lock", ".out.new"]
    _write(tmp_path / "out")
    assert _listing(tmp_path) == {"out/new.txt": "new"}
    assert os.listdir(tmp_path) == ["out"]


def test_a_claim_may_be_nested_and_leaves_nothing(tmp_path):
    with claim_output(tmp_path / "a" / "b" / "out", False) as target:
        _write(target)
        shutil.rmtree(target)
    assert os.listdir(tmp_path) == []


def test_files_written_at_once_take_turns(tmp_path):
    texts = [letter * 50_000 for letter in "abcd"]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_rewrite, args=(tmp_path / "x", text)) for text in texts]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert os.listdir(tmp_path) == ["x"]
    assert (tmp_path / "x").read_text() in texts


def _rewrite(path, text):
    for _ in range(20):
        write_atomically(path, text)
        assert len(path.read_text()) == 50_000


@pytest.mark.parametrize("overwrite", [False, True])
class TestOutputsThatDestroy:
    @pytest.fixture
    def source(self, tmp_path):
        (tmp_path / "parent" / "in" / "below").mkdir(parents=True)
        (tmp_path / "parent" / "in" / "weights").write_text("precious")
        return tmp_path / "parent" / "in"

    @pytest.mark.parametrize(
        ("out", "says"),
        [(".", "is the input itself"), ("..", "holds the input"), ("below", "lies inside")],
    )
    def test_the_input(self, source, overwrite, out, says):
        with pytest.raises(OutputError, match=says):
            check_output(source / out, overwrite, ["bert-base-uncased", None, source])
        link = source.parent.parent / "link"
        link.symlink_to(source)
        with pytest.raises(OutputError, match=says):
            check_output(source / out, overwrite, [link])

    def test_what_is_no_directory(self, tmp_path, overwrite):
        os.mkfifo(tmp_path / "fifo")
        with socket.socket(socket.AF_UNIX) as listener:
            os.chdir(tmp_path)
            listener.bind("socket")
        for path in (tmp_path / "fifo", tmp_path / "socket", "/dev/null"):
            with pytest.raises(OutputError, match="is not a directory"):
                check_output(path, overwrite)

    def test_a_link_is_followed(self, old, overwrite):
        link = old.parent / "link"
        link.symlink_to("real")
        with pytest.raises(OutputError, match=r"is a link to .*real, which is not there"):
            _write(link, overwrite=overwrite)
        (old.parent / "real").mkdir()
        _write(link, overwrite=overwrite)
        assert link.is_symlink()
        assert _listing(old.parent / "real") == {"new.txt": "new"}

    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("file/below/out", "lies below .*file, which is a file"),
            ("x" * 256, "File name too long"),
            ("a\0b", "null byte"),
        ],
    )
    def test_a_path_that_cannot_be(self, tmp_path, overwrite, name, says):
        (tmp_path / "file").write_text("mine")
        with pytest.raises(OutputError, match=says):
            _write(tmp_path / name, overwrite=overwrite)
        assert _listing(tmp_path) == {"file": "mine"}


@pytest.mark.parametrize("name", ["x" * 250, "ü" * 125, "[bold]", "*?[a-z]", " ", "-o"])
def test_odd_names_are_names(tmp_path, name):
    for _ in range(2):
        _write(tmp_path / name, overwrite=True)
    write_atomically(tmp_path / name / ("y" * 250), "text")
    assert os.listdir(tmp_path) == [name]
    assert len(_listing(tmp_path)) == 2


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        with atomic_directory(tmp_path / "out") as work:
            (work / "sub").mkdir(mode=0o700)
            (work / "sub" / "private").touch(mode=0o600)
        write_atomically(tmp_path / "out" / "record.json", "{}")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {
        "out": 0o777 & ~umask,
        "sub": 0o777 & ~umask,
        "private": 0o666 & ~umask,
        "record.json": 0o666 & ~umask,
    }


@pytest.fixture
def unprivileged(tmp_path):
    """Whoever runs the tests is not the superuser, who may write anywhere."""
    if os.geteuid() != 0:
        yield
        return
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_mode & 0o001 == 0:
            path.chmod(path.stat().st_mode | 0o011)
    os.seteuid(65534)
    yield
    os.seteuid(0)


def test_a_place_that_is_read_only_is_refused_at_the_start(tmp_path, unprivileged):
    with pytest.raises(OutputError, match="cannot be written"):
        check_output("/usr/out", False)
    with pytest.raises(OutputError, match="cannot be written"):
        check_output("/usr/new/parents/out", False)
    with pytest.raises(OutputError, match="cannot be written"):
        check_output("/usr", True)


def test_a_place_where_nothing_can_be_made_is_refused_at_the_start():
    with pytest.raises(OutputError, match="cannot be"), claim_output("/proc/out", False):
        pytest.fail("the work began")
