"""What a backbone with a readout hands on: only what was asked for, corrected everywhere."""

from __future__ import annotations

import pytest
import torch

from bipft_compress.families import describe, get_module

RECIPE = {"readout": {"rank": 3, "layers": 2, "bits": 32}}
IDS = torch.tensor([[0, 7, 8, 9, 10, 2], [0, 11, 2, 1, 1, 1]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])


@pytest.fixture
def pair(make_binary, family):
    """The same binary model with its readout and without."""
    binary = make_binary(family, recipe=RECIPE)
    plain = make_binary(family)
    plain.student.load_state_dict(binary.student.state_dict(), strict=False)
    importance = get_module(binary.student, binary.encoder.readout).importance
    importance.random_(generator=torch.Generator().manual_seed(0))
    return binary.student, plain.student


@torch.no_grad()
def test_the_last_hidden_states_are_corrected(pair):
    model, plain = pair
    inputs = {"input_ids": IDS, "attention_mask": MASK}
    ours = model(**inputs, output_hidden_states=True)
    theirs = plain(**inputs, output_hidden_states=True)
    readout = get_module(model, describe(model).readout)
    wanted = readout(theirs.last_hidden_state, theirs.hidden_states, readout.weights(IDS, MASK))
    assert torch.equal(ours.last_hidden_state, wanted)
    assert torch.equal(ours.hidden_states[-1], wanted)
    for a, b in zip(ours.hidden_states[:-1], theirs.hidden_states[:-1], strict=True):
        assert torch.equal(a, b)
    if "pooler_output" in theirs:
        module = get_module(model, describe(model).pooler)
        expected = module(wanted[:, 0]).tanh()
        torch.testing.assert_close(ours.pooler_output, expected)


@torch.no_grad()
def test_embeddings_given_for_words_all_count_alike(pair):
    model, plain = pair
    if model.config.model_type not in ("bert", "roberta", "mpnet", "modernbert"):
        pytest.skip("not every family takes embeddings")
    embeddings = model.get_input_embeddings()(IDS)
    states = model(inputs_embeds=embeddings, attention_mask=MASK, output_hidden_states=True)
    theirs = plain(inputs_embeds=embeddings, attention_mask=MASK, output_hidden_states=True)
    readout = get_module(model, describe(model).readout)
    wanted = readout(theirs.last_hidden_state, theirs.hidden_states, MASK)
    assert torch.equal(states.last_hidden_state, wanted)


@torch.no_grad()
def test_nothing_is_handed_on_that_was_not_asked_for(pair):
    model, plain = pair
    inputs = {"input_ids": IDS, "attention_mask": MASK}
    assert list(model(**inputs)) == list(plain(**inputs))
    ours, theirs = (each(**inputs, return_dict=False) for each in pair)
    assert isinstance(ours, tuple)
    assert [type(part) for part in ours] == [type(part) for part in theirs]
    assert torch.equal(ours[0], model(**inputs)[0])
    assert torch.equal(model(IDS, attention_mask=MASK)[0], ours[0])
