"""Which tokens a mask of transformers' marks as real: all that the kernels take of it."""

from __future__ import annotations

import torch
from torch import Tensor

from bipft_compress.nn.positions import within_window

_library = torch.library.Library("bipft_compress", "FRAGMENT")
_library.define("token_mask(Tensor mask, int? window) -> Tensor")


def tokens_of(mask: Tensor | None, window: int | None) -> tuple[Tensor | None, bool]:
    """The real tokens of a mask, and whether it says nothing else.

    Args:
        mask: see `attention.read_mask`.
        window: see `AttentionSpec`; a mask may say it again.

    Returns:
        Boolean, (batch, length), true at real tokens, None for all; and whether forbidding the
        other tokens as keys (and what is outside the window) is all that `mask` does.
    """
    if mask is None:
        return None, True
    if mask.dim() == 2:
        return mask.bool(), True
    if mask.dim() != 4 or mask.shape[1] != 1:
        return None, False
    allowed, plain = mask[:, 0], True
    if mask.dtype != torch.bool:
        # Added to scores: it may say more than yes or no.
        never = mask[:, 0] <= torch.finfo(mask.dtype).min / 2
        plain = bool(((mask[:, 0] == 0) | never).all())
        allowed = ~never
    if allowed.shape[1] == 1:
        return allowed[:, 0], plain
    # Every token may attend to itself, if to anything: padding is what may not.
    tokens = allowed.diagonal(dim1=-2, dim2=-1)
    pairs = tokens[:, None, :]
    if window is not None:
        pairs = pairs & within_window(mask.shape[-1], window, mask.device)
    # What padding attends to is nobody's concern.
    same = (pairs == allowed) | ~tokens[:, :, None]
    return tokens.contiguous(), plain and bool(same.all())


def token_mask(mask: Tensor, window: int | None) -> Tensor:
    """The real tokens of a mask, for graphs: `tokens_of` where it must not say anything else.

    Raises:
        ValueError: when it runs, if the mask says more than which tokens are real.
    """
    tokens: Tensor = torch.ops.bipft_compress.token_mask(mask, window)
    return tokens


def _token_mask(mask: Tensor, window: int | None) -> Tensor:
    tokens, plain = tokens_of(mask, window)
    if tokens is None or not plain:
        raise ValueError("a compiled packed model takes masks of tokens (batch, length), no others")
    # An operator may not return a view of what it was given.
    return tokens.clone()


def _token_mask_shape(mask: Tensor, window: int | None) -> Tensor:
    return mask.new_empty(mask.shape[0], mask.shape[-1], dtype=torch.bool)


_library.impl("token_mask", _token_mask, "CompositeExplicitAutograd")
torch.library.register_fake("bipft_compress::token_mask", _token_mask_shape, lib=_library)
