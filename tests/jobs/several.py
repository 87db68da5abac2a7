"""Trainings that `test_several_processes` runs in one process and in two: `several.py DIR`."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from unittest import mock

from accelerate import PartialState

from bipft_compress.jobs import compress_checkpoint, finetune, pretrain
from bipft_compress.recipe import Recipe
from bipft_compress.structure.knowledge import Knowledge
from bipft_compress.tasks.chosen import ChosenTask
from bipft_compress.tasks.labelled import Columns
from bipft_compress.text.dataset import build_dataset
from bipft_compress.training.session import run_training

TERMS = (
    "mlm", "nsp", "logits", "hidden_states", "attention_scores", "directions", "sentence_cosine",
    "sentence_similarity",
)  # fmt: skip
SEQUENCES = 25
"""Of three batches of 8 and one of 1, of which a second process has nothing."""

RECIPE = Recipe.load(
    {
        "initialisation": {"calibration_tokens": 400, "batch_tokens": 200, "sequence_length": 24},
        "text": {"unit": "packed", "sequence_length": 24, "shortest": 4},
        "objective": dict.fromkeys(TERMS, 1.0),
        "embeddings": {"subvector": 4},
        "training": {
            "max_steps": 8,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "save_steps": 3,
            "seed": 3,
        },
        "finetuning": {
            "sequence_length": 24,
            "training": {
                "max_steps": 5,
                "per_device_train_batch_size": 6,
                "gradient_accumulation_steps": 2,
                "learning_rate": 1e-3,
                "logging_steps": 1,
                "save_steps": 3,
                "seed": 3,
            },
        },
    }
)
ALONE = Recipe.load(
    RECIPE.model_dump()
    | {"objective": {"directions": 1.0}, "training": RECIPE.training | {"max_steps": 4}}
)
"""No gradient reaches what follows the attention of the last layer."""


class Interrupted(Exception):
    """Ends a training after its last checkpoint, in every process."""


def _in_double_precision(distillation, *args, **kwargs):
    """A rounding error that turns a sign would hide whether losses are the same."""
    models = [model for model in (distillation.student, distillation.teacher) if model is not None]
    for model in models:
        model.double()
    try:
        return run_training(distillation, *args, **kwargs)
    finally:
        for model in models:
            model.float()


def _few(*args, **kwargs):
    return build_dataset(*args, **kwargs).select(range(SEQUENCES))


class Runs:
    """The trainings of a directory that holds `start`, `corpus.txt`, `glue` and `pairs.csv`.

    Args:
        directory: of inputs and outputs.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.points: dict[str, list[dict]] = {}

    def pretrain(self, name: str, *, recipe=RECIPE, resume=False, interrupted=False) -> None:
        finish = mock.Mock(side_effect=Interrupted if interrupted else None)
        finish.return_value = Knowledge()
        pretraining = importlib.import_module("bipft_compress.training.pretraining")
        job = importlib.import_module("bipft_compress.jobs.pretrain")
        with (
            mock.patch.object(pretraining, "run_training", _in_double_precision),
            mock.patch.object(pretraining, "build_dataset", _few),
            mock.patch.object(job, "_finish", finish),
        ):
            try:
                record = pretrain(
                    self.directory / "start", self.directory / "corpus.txt", self.directory / name,
                    recipe=recipe, device="cpu", resume=resume,
                )  # fmt: skip
            except Interrupted:
                PartialState().wait_for_everyone()
                return
        self.points[name] = record.training

    def finetune(self, name: str, chosen: ChosenTask) -> None:
        job = importlib.import_module("bipft_compress.jobs.finetune")
        kept: list[dict] = []

        def keep(*args, **kwargs):
            kept.extend(_in_double_precision(*args, **kwargs))
            return kept

        with mock.patch.object(job, "run_training", keep):
            finetune(
                self.directory / "start", chosen, self.directory / name, recipe=RECIPE,
                device="cpu",
            )  # fmt: skip
        self.points[name] = kept

    def compress(self, name: str) -> None:
        # Without the descent, which would make more of a rounding error.
        compress_checkpoint(
            self.directory / "bert-ForPreTraining", RECIPE.with_rank(1), self.directory / name,
            calibration=self.directory / "corpus.txt", device="cpu",
        )  # fmt: skip

    def all(self, prefix: str) -> None:
        """Every kind, from its first step to its last."""
        self.compress(f"{prefix}-compressed")
        self.pretrain(f"{prefix}-pretrained")
        self.pretrain(f"{prefix}-alone", recipe=ALONE)
        self.pretrain(f"{prefix}-interrupted", interrupted=True)
        self.finetune(f"{prefix}-classes", ChosenTask("sst2", self.directory / "glue"))
        columns = Columns("a", "b", "y")
        pairs = ChosenTask("custom", self.directory / "pairs.csv", columns, True)
        self.finetune(f"{prefix}-similarity", pairs)


def main(directory: Path) -> None:
    """In two processes: all, and what one process left unfinished."""
    runs = Runs(directory)
    runs.all("two")
    runs.pretrain("one-interrupted", resume=True)
    if PartialState().is_main_process:
        (directory / "two.json").write_text(json.dumps(runs.points))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
