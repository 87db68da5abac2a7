"""The kernels as torch operators, so that ``torch.compile`` and ``torch.export`` see them.

Importing this module registers them; `runtime.ops` says what each does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bipft_compress.runtime.native import REFERENCE, kernels
from bipft_compress.storage.bits import unpack_signs

_library = torch.library.Library("bipft_compress", "DEF")
_library.define(
    "binary_product(Tensor activations, Tensor weights, int in_features, int out_features, "
    "str path) -> Tensor"
)
_library.define("binary_linear(Tensor x, Tensor program, int out_features) -> Tensor")
_library.define(
    "encoder_block(Tensor x, Tensor? key_mask, Tensor? bias, Tensor? cos, Tensor? sin, "
    "Tensor? offsets, Tensor program) -> Tensor"
)
_library.define(
    "rows(Tensor ids, Tensor packed, Tensor scale, int bits, int columns, str path) -> Tensor"
)
_library.define(
    "words(Tensor ids, Tensor[] frequent, Tensor[] books, Tensor[] rare, int[] numbers, str path) "
    "-> Tensor"
)
_library.define(
    "linear(Tensor x, Tensor packed, Tensor scale, Tensor? bias, int bits, str path) -> Tensor"
)


def _check(operator: str, dtype: torch.dtype, **given: Tensor | None) -> None:
    """Raise TypeError where a tensor is of another type: kernels read memory as it lies."""
    for name, tensor in given.items():
        if tensor is not None and tensor.dtype != dtype:
            raise TypeError(f"{operator}: {name} must be {dtype}, not {tensor.dtype}")


def _run(kernel: str, *arguments: Tensor | int | str | None) -> None:
    """Call a kernel on torch's threads. Tensors go as arrays: they are handed over three times as
    fast, which is most of a small product's time."""
    given = [part.numpy() if isinstance(part, Tensor) else part for part in arguments]
    getattr(kernels(), kernel)(*given, torch.get_num_threads())


def _binary_product(
    activations: Tensor, weights: Tensor, in_features: int, out_features: int, path: str
) -> Tensor:
    _check("binary_product", torch.uint8, activations=activations, weights=weights)
    if path == REFERENCE:
        rows, columns = unpack_signs(activations, in_features), unpack_signs(weights, in_features)
        return (rows @ columns.T).to(torch.int32)
    result = torch.empty(len(activations), out_features, dtype=torch.int32)
    _run("binary_product", activations.contiguous(), weights, in_features, result, path)
    return result


def _binary_product_shape(
    activations: Tensor, weights: Tensor, in_features: int, out_features: int, path: str
) -> Tensor:
    return activations.new_empty(len(activations), out_features, dtype=torch.int32)


def _binary_linear(x: Tensor, program: Tensor, out_features: int) -> Tensor:
    _check("binary_linear", torch.float32, x=x)
    _check("binary_linear", torch.uint8, program=program)
    y = _binary_linear_shape(x, program, out_features)
    flat = x.contiguous().view(-1, x.shape[-1])
    _run("binary_linear", program, flat, y.view(-1, out_features))
    return y


def _binary_linear_shape(x: Tensor, program: Tensor, out_features: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], out_features)


def _encoder_block(
    x: Tensor,
    key_mask: Tensor | None,
    bias: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    offsets: Tensor | None,
    program: Tensor,
) -> Tensor:
    name = "encoder_block"
    _check(name, torch.float32, x=x, bias=bias, cos=cos, sin=sin)
    _check(name, torch.bool, key_mask=key_mask)
    _check(name, torch.int32, offsets=offsets)
    _check(name, torch.uint8, program=program)
    seen = None if key_mask is None else key_mask.contiguous().view(torch.uint8)
    bias, cos, sin, offsets = (
        None if tensor is None else tensor.contiguous() for tensor in (bias, cos, sin, offsets)
    )
    x = x.contiguous()
    y = torch.empty_like(x)
    _run(name, program, x, seen, bias, cos, sin, offsets, y)
    return y


def _encoder_block_shape(
    x: Tensor,
    key_mask: Tensor | None,
    bias: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    offsets: Tensor | None,
    program: Tensor,
) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _rows(ids: Tensor, packed: Tensor, scale: Tensor, bits: int, columns: int, path: str) -> Tensor:
    _check("rows", torch.uint8, packed=packed)
    result = _rows_shape(ids, packed, scale, bits, columns, path)
    _run(
        "rows", _ids(ids), packed.contiguous(), _steps(scale), bits, result.view(-1, columns), path
    )
    return result


def _rows_shape(
    ids: Tensor, packed: Tensor, scale: Tensor, bits: int, columns: int, path: str
) -> Tensor:
    return ids.new_empty(*ids.shape, columns, dtype=torch.float32)


def _words(
    ids: Tensor,
    frequent: list[Tensor],
    books: list[Tensor],
    rare: list[Tensor],
    numbers: list[int],
    path: str,
) -> Tensor:
    codes, flags, before = rare
    _check("words", torch.uint8, frequent=frequent[0], books=books[0], codes=codes, flags=flags)
    _check("words", torch.int32, before=before)
    result = _words_shape(ids, frequent, books, rare, numbers, path)
    tables = (_ids(ids), frequent[0], _steps(frequent[1]), books[0], _steps(books[1]), *rare)
    *others, columns = numbers
    _run("words", *tables, *others, result.view(-1, columns), path)
    return result


def _words_shape(
    ids: Tensor,
    frequent: list[Tensor],
    books: list[Tensor],
    rare: list[Tensor],
    numbers: list[int],
    path: str,
) -> Tensor:
    return ids.new_empty(*ids.shape, numbers[-1], dtype=torch.float32)


def _linear(
    x: Tensor, packed: Tensor, scale: Tensor, bias: Tensor | None, bits: int, path: str
) -> Tensor:
    _check("linear", torch.float32, x=x, bias=bias)
    _check("linear", torch.uint8, packed=packed)
    result = _linear_shape(x, packed, scale, bias, bits, path)
    flat = x.contiguous().view(-1, x.shape[-1])
    _run("linear", flat, packed, _steps(scale), bias, bits, result.view(-1, len(packed)), path)
    return result


def _linear_shape(
    x: Tensor, packed: Tensor, scale: Tensor, bias: Tensor | None, bits: int, path: str
) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(packed))


def _ids(ids: Tensor) -> Tensor:
    if ids.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"ids must be torch.int64 or torch.int32, not {ids.dtype}")
    return ids.long().reshape(-1).contiguous()


def _steps(scale: Tensor) -> Tensor:
    """The fp16 steps of rows, (rows, 1), as the kernels read them."""
    if scale.dtype not in (torch.float16, torch.float32):
        raise TypeError(f"steps must be torch.float16 or torch.float32, not {scale.dtype}")
    return scale.half().flatten().view(torch.uint16)


for _name, _kernel, _shape in (
    ("binary_product", _binary_product, _binary_product_shape),
    ("binary_linear", _binary_linear, _binary_linear_shape),
    ("encoder_block", _encoder_block, _encoder_block_shape),
    ("rows", _rows, _rows_shape),
    ("words", _words, _words_shape),
    ("linear", _linear, _linear_shape),
):
    _library.impl(_name, _kernel, "CPU")
    torch.library.register_fake(f"bipft_compress::{_name}", _shape)
