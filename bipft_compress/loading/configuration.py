"""Configurations, and the class of transformers' that each names."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub.errors import HFValidationError, StrictDataclassError
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from bipft_compress.errors import CheckpointError, UnsupportedModelError, first_line
from bipft_compress.families import apply_pooling_layer, check_supported
from bipft_compress.files import read_json
from bipft_compress.loading.claims import check_claims, configuration_faults
from bipft_compress.sources import check_source, split_revision

logger = logging.getLogger("bipft_compress")

_FAULTS = (
    OSError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError,
    HFValidationError, StrictDataclassError,
)  # fmt: skip
"""What transformers raises for a value of another type in a configuration."""


def load_config(checkpoint: str | Path, *, name: str | Path | None = None) -> PretrainedConfig:
    """Configuration of a hub name (also ``name@revision``), a local directory or a ``config.json``.

    No code that comes with a checkpoint is run: see ``trust_remote_code`` of transformers.

    Args:
        checkpoint: where it is read.
        name: what errors call it, if not that.

    Raises:
        CheckpointError: it cannot be found or read, or claims sizes that no model has.
        UnsupportedModelError: an architecture that cannot be made binary.
    """
    path, shown = Path(checkpoint), Path(name or checkpoint)
    file = path
    if path.is_dir():
        file, shown = path / "config.json", shown / "config.json"
        if not file.is_file():
            raise CheckpointError(
                f"{shown.parent} has no config.json: it is not a Hugging Face checkpoint."
            )
    local = file.exists()
    check_source(checkpoint)
    source, revision = split_revision(checkpoint)
    try:
        if local:
            values = read_json(file)
        else:
            values, _ = PretrainedConfig.get_config_dict(source, revision=revision)
        check_claims(values, shown)
        if path.is_file():
            config = _from_values(shown, values)
        else:
            config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    except _FAULTS as error:
        if local:
            raise CheckpointError(f"{shown} cannot be read ({_all_lines(error)}).") from None
        raise CheckpointError(
            f"Checkpoint {str(checkpoint)!r} cannot be read: it is neither a local directory "
            f"nor a model that the hub answers for ({first_line(error)})."
        ) from None
    with configuration_faults(shown):
        check_supported(config)
    return config


def _from_values(path: Path, values: dict[str, Any]) -> PretrainedConfig:
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in transformers.CONFIG_MAPPING:
        raise UnsupportedModelError(f"{path} names no model type that transformers knows.")
    config: PretrainedConfig
    config = transformers.CONFIG_MAPPING[model_type].from_dict(values)
    return config


def _all_lines(error: Exception) -> str:
    """The library names the field in one line and its fault in the next."""
    return " ".join(str(error).split())[:300]


def has_mlm_head(config: PretrainedConfig) -> bool:
    """Whether the class that a configuration names has a head for masked language modelling.

    Raises:
        CheckpointError: ``architectures`` is not a list of one name.
    """
    return _named(config).endswith(("ForMaskedLM", "ForPreTraining"))


def mlm_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The family's class for masked language modelling.

    Raises:
        UnsupportedModelError: there is none.
    """
    heads = transformers.MODEL_FOR_MASKED_LM_MAPPING
    if type(config) not in heads:
        raise UnsupportedModelError(
            f"transformers has no masked language model of type {config.model_type!r}: set "
            "objective.fresh_mlm_head to false in the recipe."
        )
    return _single(heads[type(config)])


def encoder_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The family's own encoder, without a head."""
    return _single(transformers.MODEL_MAPPING[type(config)])


def model_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """The class that a configuration names in ``architectures``.

    Without a name, and for the name of a class that transformers does not have, it is that of the
    bare encoder, and the log says so: the encoder of someone's own class is often transformers'.

    Raises:
        CheckpointError: ``architectures`` is not a list of one name, or names something else of
            transformers than a model of this type.
    """
    name = _named(config)
    base = encoder_class(config)
    if not name:
        logger.info("config.json names no class: the bare encoder is read, %s", base.__name__)
        return base
    # Beside the bare encoder lie all classes of its family, and few others.
    named = getattr(sys.modules[base.__module__], name, None)
    if _is_model(named, config):
        return _single(named)
    if named is not None or name in dir(transformers):
        raise CheckpointError(
            f"config.json names the class {name} (architectures), which is no model of type "
            f"{config.model_type!r}: name one such as {base.__name__}."
        )
    logger.warning(
        "transformers has no class %s, which config.json names: the bare encoder is read, %s, "
        "and no head",
        name,
        base.__name__,
    )
    return base


def _named(config: PretrainedConfig) -> str:
    names: Any = config.architectures
    if names is None or names == []:
        return ""
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise CheckpointError(
            f"config.json has architectures {names!r}: make it a list of one class name."
        )
    return names[0]


def _is_model(named: Any, config: PretrainedConfig) -> bool:
    return (
        isinstance(named, type)
        and issubclass(named, PreTrainedModel)
        and named.config_class is type(config)
        # What all models of a family inherit from computes nothing.
        and not named.__name__.endswith("PreTrainedModel")
    )


def _single(named: Any) -> type[PreTrainedModel]:
    assert isinstance(named, type)
    assert issubclass(named, PreTrainedModel)
    return named


def model_from_config(config: PretrainedConfig) -> PreTrainedModel:
    """A full-precision model of the class that `config` names, its weights without meaning.

    Raises:
        CheckpointError: see `model_class`; or the configuration fits no model.
    """
    chosen: Any = model_class(config)
    with configuration_faults(config.name_or_path or "this checkpoint"):
        model: PreTrainedModel = chosen._from_config(config, attn_implementation="eager")
    apply_pooling_layer(model)
    model.eval()
    return model
