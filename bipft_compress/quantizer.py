"""Our quantizer for transformers: its Auto classes load binary checkpoints, and models save them.

Light to import, for transformers is not whole yet when it is registered: see `plugin`.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin
from typing_extensions import override

from bipft_compress.plugin import METHOD

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from bipft_compress.checkpoint.record import Record

logger = logging.getLogger("bipft_compress")


@register_quantization_config(METHOD)
class BipftConfig(QuantizationConfigMixin):
    """The `quantization_config` of a binary checkpoint: see `checkpoint.mark`.

    Args:
        values: of ``config.json``.
    """

    def __init__(self, **values: Any) -> None:
        self.__dict__ |= {"quant_method": METHOD, **values}


@register_quantizer(METHOD)
class BipftQuantizer(HfQuantizer):
    """Binary models, packed or with latent weights, in `from_pretrained` and `save_pretrained`."""

    requires_calibration = True
    record: Record
    names: dict[str, str]
    kept: dict[str, Tensor]

    @property
    def _form(self) -> Any:
        from bipft_compress.checkpoint.mark import form_of

        return form_of(self.quantization_config.to_dict())

    @override
    def update_attn_implementation(self, config: PretrainedConfig) -> PretrainedConfig:
        # The first that transformers shows of the configuration, before it looks for the weights.
        from bipft_compress.checkpoint.mark import unguard

        unguard(config)
        return config

    @override
    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        if dtype != torch.float32 and self._form == "packed":
            logger.info("packed models compute in torch.float32, not in %s", dtype)
            return torch.float32
        return dtype

    @override
    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, checkpoint_files: list[str] | None = None, **kwargs: Any
    ) -> None:
        from bipft_compress.checkpoint.attach import build
        from bipft_compress.errors import CheckpointError

        if checkpoint_files is None or len(checkpoint_files) != 1:
            raise CheckpointError("A binary model is loaded from its one file, not from a state.")
        values = self.quantization_config.to_dict()
        self.record, self.names, self.kept = build(model, values, Path(checkpoint_files[0]))

    @override
    def update_weight_conversions(self, weight_conversions: Any, model: PreTrainedModel) -> Any:
        from transformers.core_model_loading import WeightRenaming

        prefix = f"{model.base_model_prefix}."
        return [
            WeightRenaming(stored.removeprefix(prefix), name.removeprefix(prefix))
            for stored, name in self.names.items()
            if stored != name
        ]

    @override
    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        from bipft_compress.checkpoint.attach import complete

        complete(model, self._form, self.names, self.kept)

    @override
    def get_state_dict_and_metadata(
        self, model: PreTrainedModel
    ) -> tuple[dict[str, Tensor] | None, dict[str, str]]:
        from bipft_compress.checkpoint.attach import written

        if getattr(model, "_hf_peft_config_loaded", False):
            return None, {}  # adapters alone are written
        return written(model, self.record, self._form)

    @override
    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True

    @property
    def is_qat_trainable(self) -> bool:
        return bool(self._form == "training")

    @property
    def is_compileable(self) -> bool:
        return True
