"""What PEFT is told of binary models: it wraps their linears like any other, and merges none."""

from __future__ import annotations

from typing import Any


def refuse_merging() -> None:
    """Let PEFT refuse to merge an adapter into codes of weights: a sum with signs is no sign."""
    from peft.tuners.tuners_utils import BaseTuner

    tuner: Any = BaseTuner
    own = tuner._check_merge_allowed

    def check(self: Any) -> None:
        from bipft_compress.nn import BinaryLinear

        own(self)
        if any(isinstance(module, BinaryLinear) for module in self.model.modules()):
            raise ValueError(
                "An adapter cannot be merged into weights of a few bits, for the sum has more: "
                "keep it beside the model, or `unload()` it."
            )

    tuner._check_merge_allowed = check
