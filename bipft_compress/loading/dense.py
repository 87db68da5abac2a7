"""Dense layers that sentence-transformers has behind the pooling."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from bipft_compress.errors import CheckpointError

if TYPE_CHECKING:
    from bipft_compress.loading.sentence import SentenceModule

_NOT_IN_COSINES = ("Pooling", "Normalize", "Dropout")
"""Classes of modules that do nothing to a pooled vector, or only scale it."""


def dense_layers(module: SentenceModule, where: str | Path) -> Iterator[Callable[[Tensor], Tensor]]:
    """What a module does to pooled vectors, if anything that a cosine sees.

    Raises:
        CheckpointError: a class or an activation that is not known here.
    """
    kind = module.kind.rpartition(".")[2]
    if kind in _NOT_IN_COSINES:
        return
    name = str(module.values.get("activation_function", "torch.nn.Tanh"))
    activation = _activation(name)
    if kind != "Dense" or activation is None or "linear.weight" not in module.tensors:
        what = f"a dense layer with {name}" if kind == "Dense" else f"a module {kind}"
        raise CheckpointError(f"{where} has {what} behind the encoder, which is not known here.")
    tensors = module.tensors

    def dense(vectors: Tensor) -> Tensor:
        own = {key: tensor.to(vectors) for key, tensor in tensors.items()}
        out: Tensor = activation(F.linear(vectors, own["linear.weight"], own.get("linear.bias")))
        if module.values.get("use_residual"):
            residual = own.get("residual.weight")
            out = out + (vectors if residual is None else F.linear(vectors, residual))
        return out

    yield dense


def _activation(name: str) -> nn.Module | None:
    """The activation of a class in ``torch.nn`` that needs no arguments; None for any other."""
    module, _, kind = name.rpartition(".")
    chosen = getattr(nn, kind, None) if f"{module}.".startswith("torch.nn.") else None
    if not (isinstance(chosen, type) and issubclass(chosen, nn.Module)):
        return None
    try:
        return chosen()
    except TypeError:
        return None
