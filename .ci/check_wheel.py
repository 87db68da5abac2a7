"""What a built wheel must do where it is installed: import, and run its own kernels."""

from __future__ import annotations

import torch
from torch.nn import functional as F

import bipft_compress
from bipft_compress.runtime.native import REFERENCE, paths
from bipft_compress.runtime.ops import binary_product, prepare_weights, row_bytes
from bipft_compress.storage.bits import pack_signs

OUT_FEATURES, IN_FEATURES = 7, 173
"""No multiples of anything that a kernel is unrolled by."""


def main() -> None:
    """Compare every path of this machine with the readable one."""
    compiled = [path for path in paths() if path != REFERENCE]
    # Without a compiler a wheel is built all the same, and runs on the reference alone.
    assert compiled, "the wheel has no kernels: see why they did not compile"
    generator = torch.Generator().manual_seed(0)
    packed = pack_signs(torch.randn(5, IN_FEATURES, generator=generator))
    # Kernels read whole words.
    activations = F.pad(packed, (0, row_bytes(IN_FEATURES) - packed.shape[1]))
    weights = pack_signs(torch.randn(OUT_FEATURES, IN_FEATURES, generator=generator))
    products = {}
    for path in (REFERENCE, *compiled):
        prepared = prepare_weights(weights, IN_FEATURES, path)
        products[path] = binary_product(activations, prepared, IN_FEATURES, OUT_FEATURES, path)
        assert torch.equal(products[path], products[REFERENCE]), path
    print(f"bipft-compress {bipft_compress.__version__}: {', '.join(compiled)}")


if __name__ == "__main__":
    main()
