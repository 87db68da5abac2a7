"""Two runs are told apart by what went into them, and the difference is named."""

from __future__ import annotations

import pytest

from bipft_compress.errors import CheckpointError
from bipft_compress.files import content_digest, differences


def test_the_content_counts_not_the_name(tmp_path):
    (tmp_path / "a" / "sub").mkdir(parents=True)
    (tmp_path / "a" / "sub" / "x.txt").write_text("text")
    before = content_digest(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    assert content_digest(tmp_path / "b") == before
    (tmp_path / "b" / "sub" / "x.txt").rename(tmp_path / "b" / "x.txt")
    assert content_digest(tmp_path / "b") != before
    (tmp_path / "b" / "x.txt").rename(tmp_path / "b" / "sub" / "x.txt")
    (tmp_path / "b" / "sub" / "x.txt").write_text("texu")
    assert content_digest(tmp_path / "b") != before
    with pytest.raises(CheckpointError, match="cannot be read"):
        content_digest(tmp_path / "a")


def test_differences_are_named():
    before = {"recipe": {"bits": 1, "parts": [1, 2]}, "corpus": "a" * 64, "steps": None, "gone": 1}
    assert differences(before, before) == []
    now = {"recipe": {"bits": 2, "parts": (1, 2)}, "corpus": "b" * 64, "steps": 5, "new": 1}
    assert differences(before, now) == [
        "recipe.bits (1 there, 2 here)", "corpus", "steps (null there, 5 here)", "new", "gone",
    ]  # fmt: skip
