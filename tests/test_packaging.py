"""What pyproject.toml says of versions and wheels holds together."""

from __future__ import annotations

import re
import runpy
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from bipft_compress.runtime.native import REFERENCE, paths

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _requirements() -> list[Requirement]:
    project = PROJECT["project"]
    return [
        Requirement(line)
        for line in (*project["dependencies"], *project["optional-dependencies"]["dev"])
    ]


def test_every_python_has_wheels():
    """Those that the classifiers name, from the lowest that may be installed on."""
    named = re.findall(r"Python :: 3\.(\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    wheels = re.findall(r"cp3(\d+)-\*", PROJECT["tool"]["cibuildwheel"]["build"])
    assert wheels == named
    assert PROJECT["project"]["requires-python"] == f">=3.{named[0]}"


def test_every_dependency_has_a_lowest_version():
    """`.ci/compatibility lowest` runs on it; without one a solver takes the first release."""
    for requirement in _requirements():
        assert any(bound.operator in (">=", "==") for bound in requirement.specifier), requirement
        assert requirement.specifier.contains(version(requirement.name)), requirement


def test_the_check_of_a_wheel_runs(capsys):
    if paths() == [REFERENCE]:
        pytest.skip("there is no compiler")
    command = PROJECT["tool"]["cibuildwheel"]["test-command"]
    script = ROOT / command.rpartition("{project}/")[2]
    runpy.run_path(str(script), run_name="__main__")
    assert paths()[0] in capsys.readouterr().out
