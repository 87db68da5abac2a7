"""Names that checkpoints are given by: a directory here or a model of the hub. Cheap to import."""

from __future__ import annotations

from pathlib import Path

from bipft_compress.errors import CheckpointError, first_line

_SECONDS = 10
"""That the hub has to answer."""


def is_path(source: str | Path) -> bool:
    """Whether `source` can only be meant as a path: no name of the hub looks like it."""
    text = str(source)
    return (
        isinstance(source, Path)
        or text.startswith((".", "/", "~"))
        or text.count("/") > 1
        or "\\" in text
        or text.endswith((".json", ".safetensors", ".bin"))
    )


def check_source(source: str | Path) -> None:
    """Refuse at once what is neither here nor on the hub.

    The libraries behind try again for half a minute where the hub does not answer, and longer
    still until they are imported.

    Raises:
        CheckpointError: there is no such path; or the hub has no such model, or does not answer and
            nothing of it was fetched before.
    """
    if Path(source).exists():
        return
    if is_path(source):
        raise CheckpointError(f"There is no file or directory {source}: check the path.")
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    name = str(source)
    try:
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return
        if constants.is_offline_mode():
            reason = "HF_HUB_OFFLINE is set, and nothing of it was fetched before"
        else:
            HfApi().model_info(name, timeout=_SECONDS)
            return
    except HFValidationError:
        reason = "the hub has no such names; check its spelling"
    except RepositoryNotFoundError:
        reason = "the hub has no model of that name that you may read; check its spelling"
    except Exception as error:  # of a transport that the hub's library may change
        reason = f"the hub does not answer ({first_line(error)})"
    raise CheckpointError(f"There is no directory {name!r}, and {reason}.")
