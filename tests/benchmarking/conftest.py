import pytest

from bipft_compress.checkpoint.artefact import write_artefact
from bipft_compress.checkpoint.record import Record
from bipft_compress.recipe import Recipe


@pytest.fixture(scope="module")
def artefact(tmp_path_factory, make_pair, tokenizer):
    """A packed BERT, and beside it ``original``, what it was made from."""
    root = tmp_path_factory.mktemp("benchmark")
    pair = make_pair("bert", recipe={"objective": {"fresh_mlm_head": False}})
    pair.teacher.save_pretrained(root / "original")
    tokenizer.save_pretrained(root / "original")
    recipe = Recipe.load({"objective": {"fresh_mlm_head": False}})
    (root / "packed").mkdir()
    record = Record(recipe=recipe, teacher=str(root / "original"))
    write_artefact(root / "packed", pair.student, pair.encoder, tokenizer, record)
    return root / "packed"
