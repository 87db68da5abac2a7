"""Reference runs in pieces: settings of a recipe, each trained for as long as it takes, and scored.

    python benchmarks/reference.py CHECKPOINT --corpus TEXT --data STS-B/dev.tsv --steps 40000
        --seconds 540 --out runs/reference
        --set slow:training.learning_rate=5e-4 --set fast:training.learning_rate=2e-3

For a machine that is lent for minutes: `bipft-compress run` of one setting after the other, stopped
as by Ctrl-C when the seconds are over. Called again with the same --out, it goes on where it was.
The table of what is complete is printed, and written to --out/scores.json with the machine's name;
artefacts lie in --out/NAME/packed.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bipft_compress.checkpoint.record import RECORD
from bipft_compress.provenance import git_commit, machine
from bipft_compress.recipe import Recipe

GRACE = 60
"""Seconds that a stopped run has to end in."""


def main() -> None:
    given = _arguments()
    end = time.monotonic() + given.seconds
    given.out.mkdir(parents=True, exist_ok=True)
    for name, changes in _settings(given.set).items():
        recipe = given.out / f"{name}.yaml"
        recipe.write_text(yaml.safe_dump(changed(Recipe.load(given.recipe), changes)))
        if not (given.out / name / "report" / "report.json").is_file():
            command = ["run", given.checkpoint, "--recipe", recipe, "--corpus", given.corpus]
            command += ["--steps", given.steps, "--seed", given.seed, "--out", given.out / name]
            command += ["--data", given.data, "--device", given.device, "--quiet"]
            if not _run([str(part) for part in command], end - time.monotonic()):
                break
    scores = {
        "machine": machine(),
        "git_commit": git_commit(),
        "steps": given.steps,
        "scores": _scores(given.out),
    }
    (given.out / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
    print(json.dumps(scores, indent=2))


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's values with some of them replaced.

    Args:
        recipe: that a setting starts from.
        changes: value of each key, as in ``training.learning_rate``.
    """
    values = recipe.model_dump(mode="json")
    for key, value in changes.items():
        *sections, last = key.split(".")
        section = values
        for part in sections:
            section = section[part]
        section[last] = value
    return Recipe.load(values).model_dump(mode="json")


def _settings(written: list[str]) -> dict[str, dict[str, Any]]:
    """Name to changes, of ``NAME:KEY=VALUE,KEY=VALUE``; the recipe as it is without any."""
    settings: dict[str, dict[str, Any]] = {}
    for setting in written:
        name, _, changes = setting.partition(":")
        pairs = (change.partition("=") for change in changes.split(",") if change)
        settings[name] = {key: yaml.safe_load(value) for key, _, value in pairs}
    return settings or {"recipe": {}}


def _run(command: list[str], seconds: float) -> bool:
    """Whether `bipft-compress` came to its end in time; a fault of its own ends this program."""
    process = subprocess.Popen([sys.executable, "-m", "bipft_compress", *command])
    try:
        code = process.wait(timeout=max(seconds, 0))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=GRACE)
        return False
    if code:
        sys.exit(code)
    return True


def _scores(out: Path) -> dict[str, Any]:
    """Figures that `run` measured of each complete setting."""
    records = sorted(out.glob(f"*/pretrained/{RECORD}"))
    return {path.parts[-3]: json.loads(path.read_text())["quality"] for path in records}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="full-precision checkpoint")
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--data", required=True, help="sentence pairs; see evaluate")
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--set", action="append", default=[], help="NAME:KEY=VALUE,KEY=VALUE")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=540, help="after which it stops")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
