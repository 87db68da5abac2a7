from transformers import BertForMaskedLM

from bipft_compress.recipe import Recipe
from bipft_compress.reporting import build_report, report_from_config


def test_bert_base_as_published(bert_base):
    papers = bert_base.papers_convention
    assert round(papers.operations_full_precision / 1e9, 1) == 22.5
    assert round(papers.operations_compressed / 1e9, 1) == 0.4
    assert round(papers.memory_full_precision_bytes / 2**20, 1) == 417.6
    assert round(papers.memory_compressed_bytes / 2**20, 2) == 13.38
    signs = 12 * (4 * 768 * 768 + 2 * 768 * 3072) + 30522 * 768
    vectors = 12 * (5 * 768 + 3072 + 2 * 2 * 768) + 2 * 768
    assert papers.memory_compressed_bytes == signs // 8 + 4 * vectors


def test_estimators_and_heads_do_not_enter(tiny_config):
    plain = report_from_config(tiny_config, Recipe().with_rank(0), sequence_length=7)
    ranked = report_from_config(tiny_config, Recipe().with_rank(3), sequence_length=7)
    assert ranked.papers_convention == plain.papers_convention
    assert ranked.operations.compressed > plain.operations.compressed
    headed = build_report(BertForMaskedLM(tiny_config), Recipe(), sequence_length=7)
    assert "head" in headed.operations.by_kind
    names = [part.name for part in headed.papers_convention.parts]
    assert not any("task head" in name for name in names)
