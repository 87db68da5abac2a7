"""Run a model one layer at a time and look at what goes into and out of its modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bipft_compress.families import Encoder, get_module

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and named arguments of a layer, but for the hidden states."""


class _Stop(Exception):  # noqa: N818 - it is no error
    """Raised by a hook once what was asked for has been seen."""


@dataclass(frozen=True)
class Call:
    """The arguments of one call of an encoder layer, for one batch."""

    hidden: Tensor
    """Hidden states, (batch, length, hidden)."""
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self, layer: nn.Module) -> Tensor:
        """Hidden states after `layer`."""
        result = layer(self.hidden, *self.args, **self.kwargs)
        output: Tensor = result[0] if isinstance(result, tuple) else result
        return output

    def at(self, hidden: Tensor) -> Call:
        """The same call with other hidden states."""
        return Call(hidden, self.args, self.kwargs)

    @torch.no_grad()
    def inputs(self, layer: nn.Module, module: nn.Module) -> tuple[Any, ...]:
        """What `module`, somewhere in `layer`, is called with; it and what follows do not run."""
        return _inputs(module, lambda: self.run(layer))


def _inputs(module: nn.Module, run: Callable[[], Any]) -> tuple[Any, ...]:
    """What `run` calls `module` with; nothing from there on is computed."""
    seen: list[tuple[Any, ...]] = []

    def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(args)
        raise _Stop

    handle = module.register_forward_pre_hook(hook)
    try:
        run()
    except _Stop:
        pass
    finally:
        handle.remove()
    return seen[0]


def first_hidden(
    model: PreTrainedModel, encoder: Encoder, input_ids: Tensor, mask: Tensor
) -> Tensor:
    """What the first layer of `model` reads, (batch, length, hidden); no layer runs.

    Args:
        model: with blocks.
        encoder: its parts.
        input_ids: (batch, length).
        mask: (batch, length), true or 1 at real tokens.
    """
    block = get_module(model, encoder.layers[encoder.calls[0]].block)
    hidden: Tensor
    hidden, *_ = _inputs(block, lambda: model.base_model(input_ids, attention_mask=mask))
    return hidden


@contextmanager
def _passing(block: nn.Module) -> Iterator[None]:
    """While it is open, `block` returns its input."""
    block.forward = lambda hidden, **_: hidden
    try:
        yield
    finally:
        del block.forward


class LayerwiseRunner:
    """Holds the input of the next layer for every batch; two of them walk side by side.

    Memory is one hidden state per token, O(tokens * hidden_size).

    Args:
        model: full-precision or binary model with blocks, in evaluation mode.
        encoder: its parts.
        batches: token ids, each (sequences, length), without padding.
    """

    def __init__(self, model: PreTrainedModel, encoder: Encoder, batches: Iterable[Tensor]) -> None:
        self.model, self.encoder = model, encoder
        self.position = 0
        # Of each batch, the calls of all layers; only the next one has hidden states.
        self._arguments: list[Iterator[_Arguments]] = []
        self.calls: list[Call] = []
        for batch in batches:
            hidden, arguments = self._pass(batch)
            self._arguments.append(iter(arguments))
            self.calls.append(Call(hidden, *next(self._arguments[-1])))

    @torch.no_grad()
    def _pass(self, batch: Tensor) -> tuple[Tensor, list[_Arguments]]:
        """Hidden states before the first layer, and all else that each layer is called with.

        Masks and positions differ from layer to layer where ModernBERT's windows do. They do not
        depend on hidden states: in this pass, blocks return what they get.
        """
        first: list[Tensor] = []
        arguments: list[_Arguments] = []

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden, *others = args or (kwargs["hidden_states"],)
            first.append(hidden)
            named = {name: value for name, value in kwargs.items() if name != "hidden_states"}
            arguments.append((tuple(others), named))

        with ExitStack() as stack:
            for layer in self.encoder.layers:
                module = get_module(self.model, layer.path)
                stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
                stack.enter_context(_passing(get_module(self.model, layer.block)))
            self.model.base_model(batch.to(self.model.device))
        return first[0], arguments

    @property
    def layer(self) -> nn.Module:
        """The layer that is called next."""
        number = self.encoder.calls[self.position]
        return get_module(self.model, self.encoder.layers[number].path)

    @torch.no_grad()
    def advance(self, record: Iterable[str] = ()) -> list[dict[str, Tensor]]:
        """Call the next layer for every batch.

        Args:
            record: paths below the layer of modules whose outputs to return.

        Returns:
            For each batch, path to output. Kept in half precision where it holds them: these are
            targets of a regression over thousands of tokens, and the largest tensors of the whole
            conversion.
        """
        layer, outputs = self.layer, []
        for number, call in enumerate(self.calls):
            seen: dict[str, Tensor] = {}
            handles = [
                layer.get_submodule(path).register_forward_hook(partial(_keep, seen, path))
                for path in record
            ]
            try:
                hidden = call.run(layer)
            finally:
                for handle in handles:
                    handle.remove()
            following = next(self._arguments[number], (call.args, call.kwargs))
            self.calls[number] = Call(hidden, *following)
            outputs.append(seen)
        self.position += 1
        return outputs


def _keep(seen: dict[str, Tensor], path: str, _: nn.Module, __: object, output: Tensor) -> None:
    fits = bool(output.abs().max() <= torch.finfo(torch.float16).max)
    seen[path] = output.half() if fits else output
