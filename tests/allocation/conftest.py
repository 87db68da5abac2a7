"""Text for allocations."""

from __future__ import annotations

import random

import pytest


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    """Two hundred sentences of random words of the tiny tokenizer's letters."""
    generator = random.Random(0)

    def word() -> str:
        return "".join(generator.choices("abcdefghijklmnop", k=generator.randrange(1, 4)))

    lines = [" ".join(word() for _ in range(generator.randrange(4, 12))) for _ in range(200)]
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(lines), encoding="utf-8")
    return path
