"""The kernels' own test (csrc/tests), under sanitizers and for processors that are not here."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
CROSS = "aarch64-linux-gnu-g++"
EMULATOR = "qemu-aarch64"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("cmake") and shutil.which("c++")), reason="no cmake or no compiler"
    ),
]


def build(directory: Path, *options: str) -> Path:
    """Configure and build; the test's executable."""
    for command in (
        ["cmake", "-S", CSRC, "-B", directory, *options],
        ["cmake", "--build", directory, "--parallel", "2"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stderr
    return directory / "kernels_test"


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_under_address_and_undefined_sanitizers(tmp_path):
    """Every path of this machine, fixed shapes and ten seconds of random ones."""
    emulated = platform.machine() == "x86_64"
    options = ["-DBIPFT_SANITIZE=ON", f"-DBIPFT_EMULATE_AVX512={'ON' if emulated else 'OFF'}"]
    output = run(build(tmp_path, *options), "10")
    assert "portable" in output
    assert "0 failures" in output
    if emulated:
        assert "avx512" in output


def test_the_pool_of_our_own_under_the_thread_sanitizer(tmp_path):
    """It does not know OpenMP's threads, so it sees those for compilers without OpenMP."""
    options = ["-DBIPFT_OPENMP=OFF", "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -fsanitize=thread"]
    output = run(build(tmp_path, *options), "1")
    assert "0 failures" in output


@pytest.mark.skipif(
    not (shutil.which(CROSS) and shutil.which(EMULATOR)),
    reason=f"needs {CROSS} and {EMULATOR} (Debian: g++-aarch64-linux-gnu and qemu-user)",
)
def test_neon_under_an_emulator(tmp_path):
    program = build(
        tmp_path,
        f"-DCMAKE_CXX_COMPILER={CROSS}",
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        "-DCMAKE_EXE_LINKER_FLAGS=-static",
        # There is no static OpenMP; so the pool of our own is tested, too.
        "-DBIPFT_OPENMP=OFF",
    )
    output = run(EMULATOR, program)
    assert "neon" in output
    assert "0 failures" in output
