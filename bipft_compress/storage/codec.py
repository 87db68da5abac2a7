"""From the training model's state to packed tensors and back, one tensor at a time."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bipft_compress.nn.rounding import row_codes
from bipft_compress.storage.bits import pack_fields, pack_signs, unpack_fields, unpack_signs
from bipft_compress.storage.plan import Storage


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
    width = -(-shape[-1] * storage.bits // 8)
    return torch.empty((*shape[:-1], width), dtype=torch.uint8, device="meta")


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
            return pack_signs(tensor)
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
            return unpack_signs(tensor, shape[-1])
        case "rows":
            scale = packed[plan[storage.scale].name]
            return decode_rows(tensor, scale, storage.bits, shape[-1]).view(shape)
        case "number":
            return tensor.float()
        case "flags":
            return unpack_fields(tensor, 1, shape[-1]).bool()
        case _:
            return tensor
