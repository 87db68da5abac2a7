"""From the training model's state to packed tensors and back, one tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from torch import Tensor

from bipft_compress.nn import weight_codes
from bipft_compress.nn.quantizers import LATENT_STEP
from bipft_compress.nn.rounding import row_codes
from bipft_compress.storage.bits import (
    pack_fields,
    pack_planes,
    unpack_fields,
    unpack_planes,
)
from bipft_compress.storage.plan import Storage

_SAFETENSORS_TYPES = {torch.uint8: "U8", torch.float16: "F16", torch.float32: "F32"}


def decode_rows(packed: Tensor, scale: Tensor, bits: int, columns: int) -> Tensor:
    """Rows that a `RowRounding` rounded, in fp32.

    Args:
        packed: (..., ceil(columns * bits / 8)), uint8.
        scale: step of each row, (..., 1).
        bits: of a stored number.
        columns: numbers of a row.

    Returns:
        (..., columns).
    """
    largest = 2 ** (bits - 1) - 1
    rows: Tensor = (unpack_fields(packed, bits, columns).float() - largest) * scale.float()
    return rows


def packed_like(storage: Storage, shape: torch.Size) -> Tensor:
    """What a tensor of `shape` is packed to: an empty one on the meta device."""
    if storage.code == "number":
        return torch.empty(shape, dtype=_number_type(storage.bits), device="meta")
    if storage.code == "rows":
        shape = torch.Size((shape[:-1].numel(), shape[-1]))
    if storage.code == "signs":
        planes = (storage.bits,) if storage.bits > 1 else ()
        width = -(-shape[-1] // 8)
        return torch.empty((*planes, *shape[:-1], width), dtype=torch.uint8, device="meta")
    width = -(-shape[-1] * storage.bits // 8)
    return torch.empty((*shape[:-1], width), dtype=torch.uint8, device="meta")


def file_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of the safetensors file that holds `tensors`, which may be on the meta device.

    The format: eight bytes for the header's length, the header in JSON, filled up with spaces to a
    multiple of eight, and the tensors, those of the widest numbers first.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])):
        start, end = end, end + tensor.nbytes
        kind = _SAFETENSORS_TYPES[tensor.dtype]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [start, end]}
    length = len(json.dumps(header, separators=(",", ":")).encode())
    return 8 + -(-length // 8) * 8 + end


def _number_type(bits: int) -> torch.dtype:
    return torch.float16 if bits == 16 else torch.float32


def pack_state(state: Mapping[str, Tensor], plan: Mapping[str, Storage]) -> dict[str, Tensor]:
    """Packed tensors by their stored names.

    Args:
        state: of a training model whose numbers are storable: see `storage.plan`.
        plan: how each tensor of `state` is stored.
    """
    return {
        storage.name: _encode(state[name].detach().cpu(), storage, state).contiguous()
        for name, storage in plan.items()
    }


def _encode(tensor: Tensor, storage: Storage, state: Mapping[str, Tensor]) -> Tensor:
    match storage.code:
        case "signs":
            return pack_planes(weight_codes(tensor, storage.bits), storage.bits)
        case "rows":
            scale = state[storage.scale].detach().cpu()
            codes = row_codes(tensor.flatten(0, -2), scale, storage.bits)
            return pack_fields(codes + (2 ** (storage.bits - 1) - 1), storage.bits)
        case "number":
            return tensor.to(_number_type(storage.bits))
        case _:
            return pack_fields(tensor, storage.bits)


def unpack_state(
    packed: Mapping[str, Tensor], plan: Mapping[str, Storage], like: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The state of a training model that computes what the packed one does.

    Args:
        packed: from `pack_state`.
        plan: what `packed` was packed by.
        like: tensors of the shapes wanted, by name; they may be on the meta device.
    """
    return {
        name: _decode(packed, storage, plan, like[name].shape) for name, storage in plan.items()
    }


def _decode(
    packed: Mapping[str, Tensor], storage: Storage, plan: Mapping[str, Storage], shape: torch.Size
) -> Tensor:
    tensor = packed[storage.name]
    match storage.code:
        case "signs":
            return unpack_planes(tensor, storage.bits, shape[-1]) * LATENT_STEP
        case "rows":
            scale = packed[plan[storage.scale].name]
            return decode_rows(tensor, scale, storage.bits, shape[-1]).view(shape)
        case "number":
            return tensor.float()
        case "flags":
            return unpack_fields(tensor, 1, shape[-1]).bool()
        case _:
            return tensor
