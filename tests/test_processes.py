"""What several processes may do, and what the launcher's environment says of them."""

from __future__ import annotations

import pytest
from rich.console import Console

from bipft_compress.cli import shell
from bipft_compress.errors import CorpusError, OutputError, RecipeError, UserError
from bipft_compress.files import claim_output, claim_together
from bipft_compress.processes import check_data_parallel, is_main_process, process_count
from bipft_compress.text.corpus import locate
from bipft_compress.training.arguments import training_arguments


@pytest.fixture
def second(monkeypatch):
    """As if this were the second of four processes."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")


def test_torchrun_and_mpi_are_understood(monkeypatch):
    assert is_main_process()
    assert process_count() == 1
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "2")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "3")
    assert not is_main_process()
    assert process_count() == 3


def test_a_batch_that_processes_cannot_share_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.TrainingArguments.world_size", 3)
    assert training_arguments({"per_device_train_batch_size": 6}, tmp_path, 1, "cpu")
    with pytest.raises(RecipeError, match="= 8 is the batch of all processes, and 3 cannot"):
        training_arguments({"per_device_train_batch_size": 8}, tmp_path, 1, "cpu")


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_what_splits_the_model_is_refused(monkeypatch, tmp_path, name):
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(UserError, match=rf"{name} splits the weights.*MULTI_GPU"):
        training_arguments({}, tmp_path, 1, "cpu")


def test_the_launcher_that_starts_one_process_of_several_is_told(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    check_data_parallel()
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(UserError, match=r"starts one process.*torchrun"):
        check_data_parallel()
    monkeypatch.setenv("RANK", "0")
    check_data_parallel()


def test_commands_that_processes_would_repeat_are_refused(second, call):
    code, _, _ = call("recipes")
    assert code == 2
    with pytest.raises(UserError, match="recipes runs in one process"):
        shell.check_alone("recipes")


def test_standard_input_is_refused(second):
    with pytest.raises(CorpusError, match="Standard input reaches one of several processes"):
        locate("-")


def test_the_main_process_alone_speaks(second, call, monkeypatch):
    quiet = Console(quiet=False)
    monkeypatch.setattr(shell, "console", quiet)
    assert shell.set_up().quiet
    assert quiet.quiet
    assert call("report", "/nowhere", "--out", "x")[2] == ""


def test_the_main_process_alone_holds_an_output(tmp_path, monkeypatch):
    out = tmp_path / "out"
    with claim_output(out, False):
        monkeypatch.setenv("RANK", "1")
        with claim_together(out, False) as target:
            assert target == out
        monkeypatch.setenv("RANK", "0")
    with claim_together(out, False):
        assert (tmp_path / ".out.lock").exists()
    out.mkdir()
    (out / "file").touch()
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(OutputError, match="already exists"), claim_together(out, False):
        pass
