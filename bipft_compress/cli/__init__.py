"""The command line: parse, call, show."""

from __future__ import annotations

from bipft_compress.cli import finetuning, making, measuring
from bipft_compress.cli.shell import app, guard, say, set_up

__all__ = ["app", "finetuning", "guard", "main", "making", "measuring", "say", "set_up"]


def main() -> None:
    """Entry point of ``bipft-compress``."""
    guard(app)
