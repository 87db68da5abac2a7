"""A signal, a full disk, and names that look like markup: one message, and nothing left behind."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
import yaml

from bipft_compress.checkpoint.record import WEIGHTS
from bipft_compress.cli.shell import _stopped
from bipft_compress.errors import Stopped

from .test_cli import RECIPE


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\n\n".join(f"ab cd ef gh a{c} b{c} c{c} ab ac ad" for c in "abcdefgh" * 5))
    return path


def _start(*arguments) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bipft_compress", *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_for(*paths) -> None:
    deadline = time.monotonic() + 120
    while not any(path.exists() for path in paths):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def long_recipe(tmp_path):
    """Of a training that no test waits for."""
    path = tmp_path / "recipe.yaml"
    training = RECIPE["training"] | {"max_steps": 100_000, "save_steps": 2}
    path.write_text(yaml.safe_dump(RECIPE | {"training": training}))
    return path


@pytest.mark.parametrize(
    ("number", "how"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")]
)
def test_a_stopped_training_names_the_command_that_goes_on(
    call,
    make_checkpoint,
    long_recipe,
    corpus,
    tmp_path,
    number,
    how,
):
    binary = tmp_path / "binary"
    source = make_checkpoint("bert")
    assert call("compress", source, "--recipe", long_recipe, "--out", binary)[0] == 0
    before = sorted(tmp_path.iterdir())
    command = ["pretrain", binary, "--corpus", corpus, "--out", tmp_path / "out", "--quiet"]
    process = _start(*command)
    work = tmp_path / ".out.training"
    _wait_for(work / "checkpoint-2" / "complete", work / "checkpoint-4" / "complete")
    process.send_signal(number)
    _, text = process.communicate()
    assert process.returncode == 128 + number
    again = shlex.join(["bipft-compress", *map(str, command), "--resume"])
    assert text.endswith(f"Stopped by {how}. What was trained is kept; go on with:\n  {again}\n")
    assert "Traceback" not in text
    # Nothing but what it goes on from: no lock, no half a result.
    assert sorted(tmp_path.iterdir()) == sorted([*before, work])


def test_a_stopped_compression_leaves_nothing(make_checkpoint, corpus, tmp_path):
    source, out = make_checkpoint("bert"), tmp_path / "out [of] three"
    before = sorted(tmp_path.iterdir())
    command = ["compress", source, "--calibration", corpus, "--out", out]
    process = _start(*command)
    _wait_for(tmp_path / ".out [of] three.lock")
    process.send_signal(signal.SIGTERM)
    _, text = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    again = shlex.join(["bipft-compress", *map(str, command)])
    assert text.endswith(f"Stopped by SIGTERM. Nothing was changed; to start again:\n  {again}\n")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "resumable", "says"),
    [
        (["pretrain"], True, "What was trained is kept; go on with:\n  x pretrain --resume"),
        (["pretrain"], False, "Nothing was changed; to start again:\n  x pretrain"),
        (["run", "a b"], False, "What is complete is kept; go on with:\n  x run 'a b'"),
        (["run"], True, "What is complete is kept; go on with:\n  x run"),
        ([], True, "What is complete is kept; go on with:\n  x"),
    ],
)
def test_what_a_person_is_told(arguments, resumable, says):
    stop = Stopped(signal.SIGTERM)
    stop.resumable = resumable
    assert _stopped(stop, ["/bin/x", *arguments]) == f"Stopped by SIGTERM. {says}"


def test_a_signal_that_is_to_be_ignored_is_ignored(call, tmp_path, monkeypatch):
    """As under nohup."""
    from bipft_compress import recipe

    monkeypatch.setattr(
        recipe, "shipped_recipes", lambda: os.kill(os.getpid(), signal.SIGHUP) or []
    )
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert call("recipes")[0] == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        assert call("recipes")[0] == 128 + signal.SIGHUP
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("name", ["[red]", "[bold]x[", "x" * 250, "a\x1b[31mb"])
def test_names_are_shown_as_they_are(call, make_checkpoint, corpus, tmp_path, name):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    shown = name.replace("\x1b", "\\x1b")
    source = make_checkpoint("bert").rename(tmp_path / name)
    out = tmp_path / "out" / name
    code, text, errors = call("compress", source, "--recipe", recipe, "--out", out)
    assert code == 0, errors
    assert f"Binary checkpoint: {tmp_path}/out/{shown}\n" in text
    assert "\x1b" not in text
    code, text, errors = call("report", out, "--out", tmp_path / "report" / name)
    assert code == 0, errors
    assert shown in "".join(text.split("┏")[0].split())
    code, _, errors = call("compress", source, "--recipe", recipe, "--out", out)
    assert code == 2
    assert errors.startswith(f"Error: Output directory {tmp_path}/out/{shown} already exists")


def _task(folder) -> list:
    """Options of a labelled task."""
    rows = [f"{a} {b},{int(a < 'e')}" for a in "abcdefgh" for b in "abcdefgh"]
    (folder / "table.csv").write_text("\n".join(["text,label", *rows]))
    options = ["--task", "custom", "--data", folder / "table.csv"]
    return [*options, "--text-column", "text", "--label-column", "label"]


class TestAFullDisk:
    """Whatever is being written when it is full; the first sentence says it."""

    @pytest.fixture
    def binary(self, call, make_checkpoint, corpus, tmp_path):
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(RECIPE))
        source = make_checkpoint("bert")
        assert call("compress", source, "--recipe", recipe, "--out", tmp_path / "b")[0] == 0
        return tmp_path / "b"

    @pytest.mark.slow
    @pytest.mark.parametrize("share", [0.0, 0.5, 0.97])
    @pytest.mark.parametrize("job", ["compress", "pretrain", "finetune", "pack", "report"])
    def test_every_job(self, call, binary, corpus, tmp_path, small_disk, job, share):
        needs = {
            "compress": (binary / WEIGHTS).stat().st_size,
            # The first training checkpoint: weights and two moments of each.
            "pretrain": 3 * (binary / WEIGHTS).stat().st_size,
            "finetune": 3 * (binary / WEIGHTS).stat().st_size,
            "pack": 70_000,
            "report": 60_000,
        }
        out = small_disk(max(4096, int(share * needs[job]))) / "out"
        arguments = {
            "compress": [tmp_path / "bert-Model", "--recipe", tmp_path / "recipe.yaml"],
            "pretrain": [binary, "--corpus", corpus],
            "finetune": [binary, *_task(tmp_path)],
            "pack": [binary],
            "report": [binary],
        }
        code, _, errors = call(job, *arguments[job], "--out", out)
        assert code == 2, errors
        # After what the log says; nothing follows it.
        last = errors.splitlines()[-1]
        assert last.startswith("Error: No space left on the disk of "), errors
        assert "Traceback" not in errors
        assert not (out / WEIGHTS).exists()

    @pytest.mark.slow
    @pytest.mark.parametrize("share", [0.0, 0.5, 2.5])
    def test_a_whole_run_goes_on_where_there_is_space_again(
        self, call, binary, corpus, tmp_path, small_disk, share
    ):
        """Full at its start, while it compresses, and while it trains."""
        disk = small_disk(max(4096, int(share * (binary / WEIGHTS).stat().st_size)))
        command = ["run", tmp_path / "bert-Model", "--recipe", tmp_path / "recipe.yaml"]
        command += ["--corpus", corpus, "--out", disk / "out"]
        code, _, errors = call(*command)
        assert code == 2, errors
        last = errors.splitlines()[-1]
        assert last.startswith("Error: No space left on the disk of "), errors
        assert "Traceback" not in errors
        compressed = disk / "out" / "compressed" / WEIGHTS
        assert compressed.exists() == (share > 1)
        kept = compressed.stat() if compressed.exists() else None
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        code, _, errors = call(*command)
        assert code == 0, errors
        assert (disk / "out" / "packed" / WEIGHTS).exists()
        assert kept is None or compressed.stat().st_ino == kept.st_ino
