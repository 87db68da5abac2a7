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


_READING = ("pissa", "corda", "olora", "mica", "loftq", "lora_ga")
"""How the names of initialisations begin that decompose a layer's weights, most to change them."""


def refuse_reading_weights() -> None:
    """Let PEFT refuse variants of LoRA that read what a layer of few bits multiplies with.

    Its ``weight`` is latent, of which the codes compute, or bits: neither is a matrix to decompose
    or to measure the length of. Other layers of the model take these variants as ever.
    """
    from peft.tuners.lora.model import LoraModel

    tuner: Any = LoraModel
    own = tuner._create_and_replace

    def create(self: Any, config: Any, adapter: str, target: Any, *args: Any, **kwargs: Any) -> Any:
        from bipft_compress.nn import BinaryLinear

        layer = target.get_base_layer() if hasattr(target, "get_base_layer") else target
        variant = _reading(config, layer) if isinstance(layer, BinaryLinear) else None
        if variant is not None:
            raise ValueError(
                f"{variant} reads the weights of a layer, and those of a binary one are codes: use "
                "LoRA as it is (init_lora_weights=True, use_dora=False), or leave the layer out of "
                "target_modules."
            )
        return own(self, config, adapter, target, *args, **kwargs)

    tuner._create_and_replace = create


def _reading(config: Any, layer: Any) -> str | None:
    """The variant of a LoraConfig that reads weights, or None, as its user named it."""
    if config.use_dora:
        return "use_dora"
    start = config.init_lora_weights
    # An orthogonal start is drawn in the type of the weights, which has to be a number's.
    bits = ("orthogonal",) if not layer.weight.is_floating_point() else ()
    if isinstance(start, str) and start.lower().startswith((*_READING, *bits)):
        return f"init_lora_weights={start!r}"
    return None
