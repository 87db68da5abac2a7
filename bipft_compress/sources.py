"""Names that checkpoints are given by: a directory here or a model of the hub. Cheap to import."""

from __future__ import annotations

from pathlib import Path

from bipft_compress.errors import CheckpointError, first_line

_SECONDS = 10
"""That the hub has to answer."""


_FILES = ("config.json", "modules.json", "adapter_config.json")
"""One of them is in every checkpoint."""


def is_path(source: str | Path) -> bool:
    """Whether `source` can only be meant as a path: no name of the hub looks like it."""
    name = str(source).partition("@")[0]
    return (
        isinstance(source, Path)
        or name.startswith((".", "/", "~"))
        or name.count("/") > 1
        or "\\" in name
        or name.endswith((".json", ".safetensors", ".bin"))
    )


def split_revision(source: str | Path) -> tuple[str, str | None]:
    """A source without its revision, and the revision: ``name@revision`` names one of the hub's.

    A revision is a branch, a tag or a commit. What lies here, or can only be a path, has none.
    """
    if Path(source).exists() or is_path(source):
        return str(source), None
    name, _, revision = str(source).partition("@")
    return name, revision or None


def short_name(source: str | Path) -> str:
    """What a report calls a source: a hub's name whole, of a path the last two parts."""
    if is_path(source) or Path(source).exists():
        return "/".join(Path(source).parts[-2:])
    return str(source)


def check_source(source: str | Path) -> None:
    """Refuse at once what is neither here nor on the hub.

    The libraries behind try again for half a minute where the hub does not answer, and longer
    still until they are imported.

    Raises:
        CheckpointError: there is no such path; or the hub has no such model or revision, or does
            not answer and nothing of it was fetched before.
    """
    if Path(source).exists():
        return
    if is_path(source):
        raise CheckpointError(f"There is no file or directory {source}: check the path.")
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import (
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name, revision = split_revision(source)
    try:
        cached = (try_to_load_from_cache(name, file, revision=revision) for file in _FILES)
        if any(isinstance(path, str) for path in cached):
            return
        if constants.is_offline_mode():
            reason = "HF_HUB_OFFLINE is set, and nothing of it was fetched before"
        else:
            HfApi().model_info(name, revision=revision, timeout=_SECONDS)
            return
    except HFValidationError:
        reason = "the hub has no such names; check its spelling"
    except RevisionNotFoundError:
        reason = f"the hub's {name} has no branch, tag or commit {revision!r}; check its spelling"
    except RepositoryNotFoundError:
        reason = "the hub has no model of that name that you may read; check its spelling"
    except Exception as error:  # of a transport that the hub's library may change
        reason = f"the hub does not answer ({first_line(error)})"
    raise CheckpointError(f"There is no directory {str(source)!r}, and {reason}.")
