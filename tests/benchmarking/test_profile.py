import pytest
import torch

from bipft_compress import Recipe, load
from bipft_compress.benchmarking.profile import packed_shape, profile
from bipft_compress.checkpoint.artefact import write_artefact
from bipft_compress.checkpoint.record import Record
from bipft_compress.reporting import build_report
from bipft_compress.reporting.schema import STAGES
from bipft_compress.runtime.native import PATH_VARIABLE, REFERENCE
from bipft_compress.structure.swap import swap

BATCH, LENGTH = 2, 9
IDS = torch.full((BATCH, LENGTH), 7)


@pytest.fixture
def write(make_model, tokenizer, tmp_path):
    """`write(family, recipe={})`: a packed artefact of random numbers."""

    def write_one(family, recipe=None):
        directory = tmp_path / family
        directory.mkdir()
        model, chosen = make_model(family), Recipe.load(recipe or {})
        encoder, _ = swap(model, chosen)
        record = Record(recipe=chosen, teacher="nowhere")
        write_artefact(directory, model, encoder, tokenizer, record)
        return directory

    return write_one


def made(directory, rounds=3):
    model = load(directory)[0]
    shape = packed_shape(directory, BATCH, LENGTH)
    return model, profile(model, shape, IDS, threads=1, rounds=rounds)


def test_the_stages_of_every_family_add_up_to_the_pass(write, family):
    directory = write(family)
    model, found = made(directory)
    assert set(STAGES) - set(found.stages) == (
        {"pooler"} if getattr(model, "pooler", None) is None else set()
    )
    assert all(value >= 0 for value in found.stages.values())
    # Medians of shares: they need not add up exactly.
    assert sum(found.stages.values()) == pytest.approx(found.milliseconds, rel=0.3)
    assert found.reached == pytest.approx(found.limit_milliseconds / found.milliseconds)
    assert 0 < found.reached < 1
    # Nothing stays on the model: transformers hooks it for good when hidden states are first asked
    # for, as a readout does, so that hooks are counted after a pass.
    hooks = _hooks(model)
    profile(model, packed_shape(directory, BATCH, LENGTH), IDS, threads=1, rounds=3)
    assert _hooks(model) == hooks


def _hooks(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize(
    "recipe", [{}, {"activations": {"bits": 4, "key_value_bits": 2}}], ids=["1 bit", "4 and 2"]
)
def test_binary_products_are_those_that_the_report_counts(write, make_model, recipe):
    _, found = made(write("bert", recipe), rounds=1)
    report = build_report(
        make_model("bert"), Recipe.load(recipe), batch=BATCH, sequence_length=LENGTH
    )
    counted = 0
    for widths, macs in report.operations.by_bits["compressed"].macs.items():
        left, right = map(int, widths.split("x"))
        counted += macs * left * right if left < 32 else 0
    assert found.binary_macs == counted


def test_by_hand(write):
    _, found = made(write("bert"), rounds=1)
    tokens = BATCH * LENGTH
    layer = tokens * (4 * 36**2 + 2 * 36 * 50) + 2 * tokens * LENGTH * 36
    assert found.binary_macs == 2 * layer


def test_the_reference_has_no_limit(write, monkeypatch):
    monkeypatch.setenv(PATH_VARIABLE, REFERENCE)
    assert made(write("bert"))[1] is None
