"""What all processes do alike exchanges nothing; several processes are tested with `jobs`."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from bipft_compress.collectives import all_rows, alone, is_alone, own_share, total


@pytest.fixture
def two_processes(monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)


@pytest.mark.usefixtures("two_processes")
def test_alone_is_for_a_block_of_code():
    assert not is_alone()
    with alone():
        assert is_alone()
        x = torch.tensor([1.0, 2.0])
        assert torch.equal(total(x), x)
        assert torch.equal(all_rows(x), x)
        assert own_share([1, 2, 3]) == [1, 2, 3]
    assert not is_alone()


@pytest.mark.usefixtures("two_processes")
def test_alone_ends_with_an_error():
    with pytest.raises(ValueError, match="no"), alone():
        raise ValueError("no")
    assert not is_alone()
