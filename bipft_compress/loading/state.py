"""The tensors of a model in a file: each once, and back exactly where they were."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bipft_compress.errors import CheckpointError, first_line


def stored_names(model: nn.Module) -> dict[str, str]:
    """Name of each tensor of a model's state to the name it is stored under.

    That is another one for what is shared: where the tensor is met first. Views of one storage
    are shared only where all of them is the same.
    """
    first: dict[Hashable, str] = {}
    # The parameters themselves, not detached: on the meta device nothing else tells them apart.
    state = model.state_dict(keep_vars=True)
    return {name: first.setdefault(_identity(tensor), name) for name, tensor in state.items()}


def _identity(tensor: Tensor) -> Hashable:
    pointer = tensor.untyped_storage().data_ptr()
    if not pointer:
        # Empty, or on the meta device.
        return id(tensor)
    view = tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype
    return tensor.device, pointer, view


def state_to_save(model: nn.Module) -> dict[str, Tensor]:
    """The state of `model` on the CPU, contiguous, shared tensors stored once."""
    own, state = model.state_dict(), {}
    storages: set[int] = set()
    for name in dict.fromkeys(stored_names(model).values()):
        tensor = own[name].detach().cpu().contiguous()
        pointer = tensor.untyped_storage().data_ptr()
        # A file takes no two views of one storage.
        state[name] = tensor.clone() if pointer in storages else tensor
        storages.add(pointer)
    return state


def load_state(model: nn.Module, path: Path) -> None:
    """Load what `state_to_save` stored.

    Raises:
        CheckpointError: see `read_state` and `fill`.
    """
    fill(model, read_state(path), path)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name.

    Raises:
        CheckpointError: it is missing, truncated, or something else.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing.")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or damaged ({first_line(error)}).") from None


def fill(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Copy tensors into a model.

    Args:
        model: changed in place, or not at all.
        state: under the names of `stored_names`, each of the model's own shape and type.
        path: where `state` was read.

    Raises:
        CheckpointError: see `check_fits`.
    """
    check_fits(model, state, path)
    names = stored_names(model)
    model.load_state_dict({name: state[stored] for name, stored in names.items()})


def check_fits(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors that are not those of a model, which may be on the meta device.

    Raises:
        CheckpointError: a tensor is missing, has no place, or is of another shape or type.
    """
    names, own = stored_names(model), model.state_dict()
    for name in sorted(set(names.values()) ^ state.keys()):
        missing = name not in state
        fault = "is missing" if missing else "has no place in it"
        raise CheckpointError(f"{path} does not fit the model: tensor {name} {fault}.")
    for name in sorted(state):
        expected, stored = own[name], state[name]
        if (expected.shape, expected.dtype) != (stored.shape, stored.dtype):
            raise CheckpointError(
                f"{path} does not fit the model: tensor {name} is {_kind(stored)}, not "
                f"{_kind(expected)}."
            )


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
