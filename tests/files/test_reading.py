"""Small files in: JSON objects and checksums, and what is said of those that cannot be read."""

from __future__ import annotations

import pytest

from bipft_compress.errors import CheckpointError
from bipft_compress.files import read_json, sha256


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "is missing"),
        (b'{"a": ', "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[1, 2]", "does not hold a JSON object"),
    ],
)
def test_bad_json_is_told(tmp_path, content, says):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=says):
        read_json(path)


def test_json_and_checksum(tmp_path):
    (tmp_path / "x.json").write_text('{"a": [1]}')
    assert read_json(tmp_path / "x.json") == {"a": [1]}
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(tmp_path / "abc") == known


@pytest.mark.parametrize("read", [read_json, sha256])
def test_what_cannot_be_read_is_told(tmp_path, read):
    with pytest.raises(CheckpointError, match="cannot be read"):
        read(tmp_path)
