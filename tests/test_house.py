"""The imports of the package go one way: the order of the README's tree."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "bipft_compress"

ORDER = (
    "plugin", "errors", "processes", "sources", "files", "device", "collectives", "losses",
    "provenance", "spec", "nn", "adapters", "families", "loading", "recipe", "structure",
    "storage", "runtime", "checkpoint", "quantizer", "text", "fitting", "tasks", "training",
    "counting", "allocation", "reporting", "benchmarking", "jobs", "cli", "demo",
)  # fmt: skip
"""Each may import those before it, and none of those behind."""


def _room(module: str) -> str:
    return module.split(".")[1]


def _imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, also inside functions and for types alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "bipft_compress":
                found |= {f"bipft_compress.{alias.name}" for alias in node.names}
            elif node.module.startswith("bipft_compress."):
                found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.startswith("bipft_compress.")}
    return found


def _files(room: str) -> list[Path]:
    single = PACKAGE / f"{room}.py"
    return [single] if single.is_file() else sorted((PACKAGE / room).rglob("*.py"))


def test_every_room_has_its_place():
    rooms = {path.stem for path in PACKAGE.glob("*.py")} | {
        path.parent.name for path in PACKAGE.glob("*/__init__.py")
    }
    assert rooms - {"__init__", "__main__"} == set(ORDER)


def test_the_readme_draws_the_rooms_in_order():
    readme = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
    tree = readme.split("bipft_compress/\n")[1].split("csrc/")[0]
    drawn = [line.split()[0].removesuffix("/").removesuffix(".py") for line in tree.splitlines()]
    packages = [room for room in ORDER if (PACKAGE / room).is_dir()]
    assert [room for room in drawn if room in packages] == packages
    assert set(drawn) <= set(ORDER)


@pytest.mark.parametrize("room", ORDER)
def test_imports_go_one_way(room):
    files = _files(room)
    assert files
    allowed = set(ORDER[: ORDER.index(room) + 1])
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {module}"
        for path in files
        for module in sorted(_imports(path))
        if module != "bipft_compress" and _room(module) not in allowed
    ]
    assert not wrong
