import pytest
import torch
from transformers import BertModel

from bipft_compress.recipe import Recipe
from bipft_compress.reporting import RunFacts, report_from_config


@pytest.fixture
def tiny_model(tiny_config):
    torch.manual_seed(0)
    return BertModel(tiny_config)


@pytest.fixture
def run_facts():
    points = [
        {"step": 10 * i, "tokens": 2560 * i, "loss": 1 / (1 + i), "terms": {"hidden_states": 0.5}}
        for i in range(30)
    ]
    return RunFacts.model_validate(
        {
            "checkpoint": "some/<script>alert(1)</script> & $x$ | `y`",
            "quality": {
                "sts_spearman": {
                    "full_precision": 0.867,
                    "compressed": 0.805,
                    "embedding_floor": 0.67,
                    "recovered": 0.685,
                    "pairs": 1500,
                    "data": "<b>dev.tsv",
                },
                "accuracy": {"full_precision": 0.9, "compressed": 0.85},
            },
            "layer_errors": [0.14, 0.33],
            "training": points,
            "provenance": {
                "report": {"command": "bipft-compress report in --out <script>", "seed": 0}
            },
        }
    )


@pytest.fixture
def report(tiny_config, run_facts):
    return report_from_config(tiny_config, Recipe(), sequence_length=7, batch=2, run=run_facts)
