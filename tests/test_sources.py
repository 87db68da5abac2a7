"""Names that checkpoints are given by: paths, the hub's names, and revisions of these."""

from __future__ import annotations

import pytest

from bipft_compress.errors import CheckpointError
from bipft_compress.sources import check_source, is_path, short_name, split_revision


@pytest.mark.parametrize(
    ("source", "name", "revision"),
    [
        ("bert", "bert", None),
        ("owner/bert@v1.0", "owner/bert", "v1.0"),
        ("owner/bert@refs/pr/1", "owner/bert", "refs/pr/1"),
        ("./owner/bert@v1", "./owner/bert@v1", None),
        ("a/b/c@v1", "a/b/c@v1", None),
    ],
)
def test_a_revision_follows_a_name_of_the_hub(source, name, revision):
    assert split_revision(source) == (name, revision)
    assert is_path(source) == (revision is None and "/" in source)


def test_a_directory_may_have_an_at_sign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bert@v1").mkdir()
    assert split_revision("bert@v1") == ("bert@v1", None)
    check_source("bert@v1")


def test_a_short_name_keeps_the_revision():
    assert short_name("owner/bert@refs/pr/1") == "owner/bert@refs/pr/1"
    assert short_name("/models/some/bert") == "some/bert"


def test_only_a_cached_revision_is_there(publish, write_checkpoint, tmp_path):
    write_checkpoint(tmp_path / "original")
    publish(tmp_path / "original", "owner/bert", "v1")
    check_source("owner/bert@v1")
    with pytest.raises(CheckpointError, match="'owner/bert@v2', and HF_HUB_OFFLINE is set"):
        check_source("owner/bert@v2")
