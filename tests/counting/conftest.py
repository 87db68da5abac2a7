import pytest
from transformers import BertConfig

from bipft_compress.recipe import Recipe
from bipft_compress.reporting import report_from_config


@pytest.fixture(scope="session")
def bert_base():
    """The report of BERT-base without estimators, at 128 tokens."""
    return report_from_config(BertConfig(), Recipe().with_rank(0))
