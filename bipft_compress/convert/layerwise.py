"""Run a model one layer at a time and look at what goes into and out of its modules."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bipft_compress.families import Encoder, get_module

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class _Stop(Exception):  # noqa: N818 - it is no error
    """Raised by a hook once what was asked for has been seen."""


class LayerwiseRunner:
    """Holds the input of the current layer for every batch; two of them walk side by side.

    Memory is one hidden state per token, O(tokens * hidden_size).

    Args:
        model: full-precision or binary model, in evaluation mode.
        encoder: its parts.
        batches: token ids, each (sequences, length), without padding.
    """

    def __init__(self, model: PreTrainedModel, encoder: Encoder, batches: Iterable[Tensor]) -> None:
        self.model, self.encoder = model, encoder
        self.index = 0
        self._calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        for batch in batches:
            args, kwargs = self._until(self.layer, lambda batch=batch: model.base_model(batch))
            self._calls.append((args, kwargs))

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def layer(self) -> nn.Module:
        """The current layer."""
        return get_module(self.model, self.encoder.layers[self.index].path)

    def hidden(self, batch: int) -> Tensor:
        """Input of the current layer, or the encoder's output after the last, for one batch."""
        hidden: Tensor = self._calls[batch][0][0]
        return hidden

    def call(self, batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments of the current layer for one batch."""
        return self._calls[batch]

    @torch.no_grad()
    def _until(self, module: nn.Module, run: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments with which `run` calls `module`; nothing from there on is computed."""
        seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen.append((args, kwargs))
            raise _Stop

        handle = module.register_forward_pre_hook(hook, with_kwargs=True)
        try:
            run()
        except _Stop:
            pass
        finally:
            handle.remove()
        return seen[0]

    def inputs(self, batch: int, path: str) -> tuple[Tensor, ...]:
        """What the module at `path`, in the current layer, is called with for one batch."""
        args, kwargs = self._calls[batch]
        module = get_module(self.model, path)
        positional, _ = self._until(module, lambda: self.layer(*args, **kwargs))
        return positional

    @torch.no_grad()
    def advance(self, record: Iterable[str] = ()) -> list[dict[str, Tensor]]:
        """Go on to the next layer.

        Args:
            record: module paths whose outputs to return.

        Returns:
            For each batch, path to output. Kept in half precision: these are targets of a
            regression over thousands of tokens, and the largest tensors of the whole conversion.
        """
        layer, outputs = self.layer, []
        for number, (args, kwargs) in enumerate(self._calls):
            seen: dict[str, Tensor] = {}
            handles = [
                get_module(self.model, path).register_forward_hook(partial(_keep, seen, path))
                for path in record
            ]
            result = layer(*args, **kwargs)
            for handle in handles:
                handle.remove()
            hidden = result[0] if isinstance(result, tuple) else result
            self._calls[number] = (hidden, *args[1:]), kwargs
            outputs.append(seen)
        self.index += 1
        return outputs


def _keep(seen: dict[str, Tensor], path: str, _: nn.Module, __: object, output: Tensor) -> None:
    seen[path] = output.half()
