"""Static tables, the peers of `compare_embeddings.py`: a text is the mean of its tokens' rows."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from sklearn.linear_model import RidgeCV
from tokenizers import Tokenizer
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bipft_compress.errors import UserError
from bipft_compress.tasks.embedding_tasks import embedder

DIMENSIONS = 256
SCALE_BYTES = 2

WORDLLAMA = "pip install --no-deps wordllama==0.4.0.post1"
MODEL2VEC = ("model2vec[distill,quantization]==0.10.0", "torch")

_DISTILL = """
import sys
from model2vec.distill import distill
distill(sys.argv[1], pca_dims=int(sys.argv[3])).save_pretrained(sys.argv[2])
"""

_GAUSSIAN_STEPS = {1: 1.596, 2: 0.996, 3: 0.586, 4: 0.335, 5: 0.188, 6: 0.104, 7: 0.0569, 8: 0.0308}
"""Bits to the best step of a uniform quantizer of a normal distribution (Max 1960)."""


@dataclass(frozen=True)
class StaticTable:
    """A row for each token.

    Args:
        tokenizer: whose ids are rows.
        rows: (tokens, dimensions).
        size: bytes, of the rows alone.
        skipped: id of a token that counts for nothing, if there is one.
    """

    tokenizer: Tokenizer
    rows: np.ndarray
    size: int
    skipped: int | None = None

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """The mean of each text's rows, without special tokens; zeros for a text without any."""
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        encoded = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        ids = [[token for token in text.ids if token != self.skipped] for text in encoded]
        offsets = np.cumsum([0, *map(len, ids)])[:-1]
        return F.embedding_bag(
            torch.tensor([token for text in ids for token in text], dtype=torch.int64),
            torch.from_numpy(self.rows),
            torch.from_numpy(offsets),
            mode="mean",
        ).numpy()

    def quantized(self, bits: int) -> StaticTable:
        """Every number in `bits` bits, with a scale of 16 bits for each row."""
        rows = quantize_rows(self.rows, bits)
        return replace(self, rows=rows, size=quantized_size(self.rows.shape, bits))

    def cut(self, size: int) -> tuple[StaticTable, int]:
        """In the most bits a number that `size` bytes allow, and how many they are."""
        fitting = [
            bits for bits in _GAUSSIAN_STEPS if quantized_size(self.rows.shape, bits) <= size
        ]
        if not fitting:
            raise UserError(f"A table of {self.rows.shape} does not fit into {size:,} bytes.")
        return self.quantized(max(fitting)), max(fitting)


def quantized_size(shape: tuple[int, int], bits: int) -> int:
    """Bytes of rows in `bits` bits a number, with their scales."""
    return shape[0] * (-(-shape[1] * bits // 8) + SCALE_BYTES)


def quantize_rows(rows: np.ndarray, bits: int) -> np.ndarray:
    """Rows on an even grid without a zero, its step fitted to each row by least squares.

    In one bit that is the sign times the mean magnitude.
    """
    most = 2 ** (bits - 1) - 0.5
    step = _GAUSSIAN_STEPS[bits] * np.sqrt((rows**2).mean(1, keepdims=True)) + 1e-12
    for _ in range(10):
        grid = np.clip(np.floor(rows / step) + 0.5, -most, most)
        step = np.abs((rows * grid).sum(1, keepdims=True) / (grid**2).sum(1, keepdims=True)) + 1e-12
    return (step.astype(np.float16) * grid).astype(np.float32)


def half_precision(
    tokenizer: Tokenizer, rows: np.ndarray, unknown: str | None = None
) -> StaticTable:
    """A table in fp16."""
    skipped = None if unknown is None else tokenizer.token_to_id(unknown)
    halves = rows.astype(np.float16)
    return StaticTable(tokenizer, halves.astype(np.float32), halves.nbytes, skipped)


def wordllama() -> StaticTable:
    """WordLlama's table (Miller 2024) from its package, whose own loader would ask the hub."""
    package = importlib.util.find_spec("wordllama")
    if package is None or not package.submodule_search_locations:
        raise UserError(f"wordllama is not installed: run {WORDLLAMA}.")
    root = Path(package.submodule_search_locations[0])
    (rows,) = load_file(root / "weights" / f"l2_supercat_{DIMENSIONS}.safetensors").values()
    tokenizer = Tokenizer.from_file(str(root / "tokenizers" / "l2_supercat_tokenizer_config.json"))
    return half_precision(tokenizer, rows.astype(np.float32))


def model2vec(checkpoint: Path, work: Path) -> StaticTable:
    """What model2vec distils from a checkpoint; in an environment of its own.

    It wants an older transformers than this package, so it is installed under `work` at the first
    call.
    """
    out = work / f"model2vec-{checkpoint.resolve().name}"
    if not (out / "model.safetensors").is_file():
        environment = work / "model2vec-environment"
        python = environment / "bin" / "python"
        if not (environment / "complete").is_file():
            venv.create(environment, with_pip=True, clear=True)
            constraints = Path(__file__).parents[1] / "constraints.txt"
            _run(python, "-m", "pip", "install", "--quiet", "-c", constraints, *MODEL2VEC)
            (environment / "complete").touch()
        _run(python, "-c", _DISTILL, checkpoint.resolve(), out, DIMENSIONS)
    rows = load_file(out / "model.safetensors")["embeddings"]
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    return half_precision(tokenizer, rows.astype(np.float32), "[UNK]")


def _run(*command: object) -> None:
    try:
        subprocess.run([str(part) for part in command], check=True)
    except subprocess.CalledProcessError as error:
        raise UserError(f"{' '.join(error.cmd[:4])} failed; its output says why.") from None


def distilled(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> StaticTable:
    """The control: word embeddings under the linear map that fits the model's own embeddings best.

    Ridge regression, its penalty by leave-one-out, from the mean of a text's word embeddings to
    the model's sentence embedding; map and intercept go into the rows.
    """
    words = model.get_input_embeddings().weight.detach().float().numpy()
    plain = StaticTable(Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()), words, 0)
    ridge = RidgeCV(alphas=np.logspace(-3, 3, 13))
    ridge.fit(plain.embed(texts), embedder(model, tokenizer)(texts))
    print(f"control: ridge penalty {ridge.alpha_:g} on {len(texts):,} texts", file=sys.stderr)
    return half_precision(plain.tokenizer, ridge.predict(words).astype(np.float32))
