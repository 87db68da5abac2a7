"""The README's example in Python runs as it is written."""

from __future__ import annotations

import re
from pathlib import Path

import bipft_compress as bc

from .conftest import FINETUNING

README = Path(__file__).parents[2] / "README.md"


def test_the_example_in_python_runs(write_checkpoint, sst2, corpus, tmp_path, monkeypatch):
    block = next(
        code
        for code in re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
        if "bc.pretrain" in code
    )
    # All as written, but for what makes it long and for a recipe that fits a tiny model.
    code = block.replace("steps=300", "steps=2")
    assert code != block
    code = code.replace('bc.Recipe.load("default")', "RECIPE")

    recipe = bc.Recipe.load(
        FINETUNING | {"objective": {"hidden_states": 1.0}, "text": {"sequence_length": 24}}
    )
    write_checkpoint(tmp_path / "bert-base-uncased")
    corpus.rename(tmp_path / "wiki.txt")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"RECIPE": recipe}
    exec(code, names)
    assert (tmp_path / "packed/README.md").is_file()
    assert len(repr(names["made"])) < 500
    assert len(repr(names["record"])) < 500
    assert len(repr(bc.report("better", "again"))) < 500
