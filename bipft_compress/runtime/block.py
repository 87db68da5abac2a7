"""One packed encoder block: on the kernels where they serve, else on its own arithmetic."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any, Self

import torch
from torch import Tensor

from bipft_compress.nn import Block
from bipft_compress.nn.block import Rotary
from bipft_compress.nn.positions import relative_offsets
from bipft_compress.runtime.masks import token_mask, tokens_of
from bipft_compress.runtime.native import REFERENCE, chosen_path
from bipft_compress.runtime.ops import encoder_block
from bipft_compress.runtime.program import compile_block

logger = logging.getLogger("bipft_compress")


class PackedBlock(Block):
    """A block of packed modules; for inference.

    On a CPU, in fp32, it runs as one compiled operator. Everywhere else, with masks that the
    operator does not take, where gradients pass through it, and where its linears were replaced
    (by PEFT's with an adapter), it computes as a `Block` does: that is the reference.

    Args:
        block: whose modules it takes over, packed already.
    """

    def __init__(self, block: Block) -> None:
        with torch.device("meta"):
            super().__init__(block.spec)
        self._modules.update(block._modules)
        self._program: Tensor | None = None
        self._path = ""
        self._compiled: list[tuple[dict[str, Any], str, Any]] = []

    def __getstate__(self) -> dict[str, Any]:
        # What was compiled is for this machine, and follows from the rest.
        return self.__dict__ | {"_program": None, "_path": "", "_compiled": []}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._path = ""  # the weights move to another device or type
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    @property
    def path(self) -> str:
        """The path this block was compiled for, ``reference`` where it was not."""
        self.prepare()
        return self._path

    def prepare(self) -> None:
        """Compile it now, where the kernels serve, rather than when it first runs."""
        if not self._path or not (torch.compiler.is_compiling() or self._is_as_compiled()):
            self._compile()

    def _is_as_compiled(self) -> bool:
        return all(held.get(name) is part for held, name, part in self._compiled)

    def _compile(self) -> None:
        path, weight = chosen_path(), next(self.parameters())
        self._program = None
        self._compiled = []
        for linear in self.spec.linears():
            owner, _, name = linear.name.rpartition(".")
            held = self.get_submodule(owner)._modules
            self._compiled.append((held, name, held[name]))
        if path != REFERENCE:
            if weight.device.type != "cpu" or weight.dtype != torch.float32:
                _say_once(f"there are no kernels for {weight.device.type} and {weight.dtype}")
            else:
                self._program = compile_block(self, path)
                if self._program is None:
                    _say_once("the kernels do not know a part of this model's layers")
        self._path = REFERENCE if self._program is None else path

    def forward(
        self,
        hidden: Tensor,
        *,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        rotary: Rotary | None = None,
    ) -> Tensor:
        learning = torch.is_grad_enabled() and hidden.requires_grad
        if self.path == REFERENCE or hidden.dtype != torch.float32 or learning:
            return self._reference(hidden, mask, bias, rotary)
        spec = self.spec.attention
        keys: Tensor | None
        if torch.compiler.is_compiling() and mask is not None and mask.dim() == 4:
            # A graph cannot go one way or the other by a mask's values.
            keys, plain = token_mask(mask, spec.window), True
        else:
            keys, plain = tokens_of(mask, spec.window)
        if not plain or (rotary is not None and len(rotary[0]) != 1):
            return self._reference(hidden, mask, bias, rotary)
        cos, sin = (None, None) if rotary is None else (table[0] for table in rotary)
        length = hidden.shape[1]
        offsets = None if spec.relative is None else _offsets(spec.relative, length)
        assert self._program is not None
        return encoder_block(hidden, keys, bias, cos, sin, offsets, self._program)

    def _reference(
        self, hidden: Tensor, mask: Tensor | None, bias: Tensor | None, rotary: Rotary | None
    ) -> Tensor:
        after: Tensor = super().forward(hidden, mask=mask, bias=bias, rotary=rotary)
        return after

    def extra_repr(self) -> str:
        return self._path


@cache
def _offsets(spec: Any, length: int) -> Tensor:
    return relative_offsets(spec, length).int()


@cache
def _say_once(reason: str) -> None:
    logger.info("%s: packed blocks run on the reference in torch", reason)
