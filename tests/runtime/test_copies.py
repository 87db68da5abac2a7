"""Copies, pickles and other processes: a binary model is a torch module like any other."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import multiprocessing
from transformers import pipeline

from bipft_compress.checkpoint import load
from bipft_compress.runtime.block import PackedBlock
from bipft_compress.runtime.native import chosen_path

BATCH = {"input_ids": torch.tensor([[5, 6, 7, 8, 9]])}


def _output(model):
    with torch.no_grad():
        return model(**BATCH)[0]


@pytest.fixture(params=["packed", "training"])
def model(request, make_binary, pack_in_memory, shape):
    pair = make_binary(shape, "ForMaskedLM")
    return pair.student if request.param == "training" else pack_in_memory(pair)[1]


def test_a_pickle_is_the_model(model):
    expected = _output(model)
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert torch.equal(_output(again), expected)
        assert type(again) is type(model)
        # Of its own: nothing in it is bound to the first.
        for weight in (*again.parameters(), *again.buffers()):
            weight.detach().zero_()
        assert torch.equal(_output(model), expected)


def test_a_whole_model_saved_by_torch(write_packed, tmp_path):
    write_packed(tmp_path / "packed", "bert", "ForSequenceClassification")
    model = load(tmp_path / "packed")[0]
    torch.save(model, tmp_path / "model.pt")
    again = torch.load(tmp_path / "model.pt", weights_only=False)
    assert torch.equal(_output(again), _output(model))
    assert again.hf_quantizer.record == model.hf_quantizer.record


def test_what_is_compiled_is_not_in_a_pickle(make_binary, pack_in_memory):
    """It is for this processor, and the pickle may go elsewhere."""
    _, packed = pack_in_memory(make_binary("bert"))
    block = next(part for part in packed.modules() if isinstance(part, PackedBlock))
    assert block.__getstate__()["_program"] is None
    again = pickle.loads(pickle.dumps(block))
    assert again.path == chosen_path()


def _run(model, results):
    results.put(_output(model).numpy())


def test_a_spawned_process_runs_it(write_packed, tmp_path):
    write_packed(tmp_path / "packed")
    model = load(tmp_path / "packed")[0]
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=_run, args=(model, results))
    process.start()
    assert torch.equal(torch.from_numpy(results.get(timeout=300)), _output(model))
    process.join()


class _Embedded(torch.utils.data.Dataset):
    def __init__(self, model):
        self.model = model

    def __len__(self):
        return 2

    def __getitem__(self, number):
        return _output(self.model)[0]


def test_workers_of_a_data_loader_run_it(write_packed, tmp_path):
    """Forked after kernels ran in their parent."""
    write_packed(tmp_path / "packed")
    model = load(tmp_path / "packed")[0]
    expected = _output(model)
    for batch in torch.utils.data.DataLoader(_Embedded(model), num_workers=1, timeout=120):
        assert torch.equal(batch, expected)


PIPELINES = {
    "feature-extraction": ("Model", "ab cd efg"),
    "fill-mask": ("ForMaskedLM", "ab [MASK] efg"),
    "text-classification": ("ForSequenceClassification", "ab cd efg"),
    "token-classification": ("ForTokenClassification", "ab cd efg"),
}


@pytest.mark.parametrize("task", PIPELINES)
def test_pipelines(write_packed, task, tmp_path):
    """By the directory they run what `load` gives, on the kernels."""
    head, text = PIPELINES[task]
    write_packed(tmp_path / "packed", "bert", head)
    model, tokenizer, _ = load(tmp_path / "packed")
    by_name = pipeline(task, model=str(tmp_path / "packed"), device="cpu")
    blocks = [part for part in by_name.model.modules() if isinstance(part, PackedBlock)]
    assert {block.path for block in blocks} == {chosen_path()}
    by_model = pipeline(task, model=model, tokenizer=tokenizer, device="cpu")
    assert by_name(text) == by_model(text)


def test_attentions_are_refused(make_binary, pack_in_memory):
    _, packed = pack_in_memory(make_binary("bert"))
    for model in (packed, make_binary("bert").student):
        with pytest.raises(ValueError, match="output_attentions cannot be had"):
            model(**BATCH, output_attentions=True)


def test_another_attention_changes_nothing(make_binary, pack_in_memory, caplog):
    _, packed = pack_in_memory(make_binary("bert", "ForMaskedLM"))
    expected, chosen = _output(packed), packed.config._attn_implementation
    packed.set_attn_implementation("eager")
    assert "attn_implementation='eager' changes nothing" in caplog.text
    assert packed.config._attn_implementation == chosen
    assert torch.equal(_output(packed), expected)


def test_embeddings_may_be_given(make_binary, pack_in_memory, shape):
    if shape == "mobilebert":
        pytest.skip("its embeddings are made of three neighbours each")
    pair = make_binary(shape)
    _, packed = pack_in_memory(pair)
    vectors = pair.student.get_input_embeddings()(BATCH["input_ids"])
    with torch.no_grad():
        ours, theirs = (m(inputs_embeds=vectors)[0] for m in (packed, pair.student))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
