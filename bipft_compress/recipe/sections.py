"""The sections of a recipe: every key with its type, range and meaning."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from bipft_compress.spec import DynamicScale

Bits = Literal[1, 2, 4, 8]
WeightBits = Literal[1, 2, 3, 4]
Rank = int


def _numbers_from_text(value: Any) -> Any:
    """YAML 1.1 reads 1e-5, which has no dot, as text; no argument of training is such a text."""
    if not isinstance(value, dict):
        return value
    return {
        key: float(given) if isinstance(given, str) and _EXPONENT.fullmatch(given) else given
        for key, given in value.items()
    }


_EXPONENT = re.compile(r"[-+]?\d+[eE][-+]?\d+")

TrainingArgumentValues = Annotated[dict[str, Any], BeforeValidator(_numbers_from_text)]


class Section(BaseModel):
    """Values that cannot be changed, and no key but those named."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Weights(Section):
    """How the weights of linear layers become bits: m planes of signs, one scale a row."""

    bits: WeightBits = Field(1, description="Bits of a weight of a linear layer.")


class Precision(Section):
    """What some modules have instead of the bits and ranks of the sections; null for these."""

    weights: WeightBits | None = Field(None, description="Bits of a weight of a linear layer.")
    activations: Bits | None = Field(None, description="Bits of an input, query or probability.")
    key_values: Bits | None = Field(None, description="Bits of keys and values of an attention.")
    dynamic_scale: DynamicScale | None = Field(None, description="As in activations.")
    rank: int | None = Field(None, ge=0, description="Rank of a linear layer's estimator.")


class Activations(Section):
    """How activations become bits (METHOD: one shift, one scale, k bit planes)."""

    bits: Bits = Field(1, description="Bits of an activation, a query and a probability.")
    key_value_bits: Bits = Field(1, description="Bits of keys and values, packed like weights.")
    dynamic_scale: DynamicScale = Field(
        "none",
        description="What the codes of a token are scaled with as it runs: nothing, its root mean "
        "square (few bits), or its largest magnitude (8 bits; ffn_down, where tokens differ most).",
    )
    clip: float = Field(
        1.0, gt=0, description="Gradients stop at this multiple of the largest code's value."
    )
    elastic: bool = Field(
        False, description="Learned-step-size gradients of activation scales (BiT)."
    )
    attention: Literal["softmax", "boolean"] = Field(
        "softmax",
        description="Probabilities in the set {0, scale} (BiT), or whether a score is at least 0, "
        "without softmax (BiBERT's Bi-Attention).",
    )

    @model_validator(mode="after")
    def _boolean_is_one_bit(self) -> Self:
        if self.attention == "boolean" and self.bits != 1:
            raise ValueError("attention: boolean has one bit; set bits to 1, or softmax")
        return self


class Embeddings(Section):
    """How the word embeddings are stored; they are looked up, never multiplied."""

    code: Literal["full", "sign", "frequency-aware"] = Field(
        "frequency-aware", description="full precision, planes of signs, or bits by frequency."
    )
    bits: WeightBits = Field(1, description="sign: planes, bits of a weight; 1 is the papers'.")
    frequent_fraction: float = Field(
        0.1, gt=0, lt=1, description="frequency-aware: share of the vocabulary kept in 4 bits."
    )
    subvector: int = Field(
        12, ge=2, description="frequency-aware: numbers that share an 8-bit code in rare rows."
    )


class Kept(Section):
    """Storage of what stays out of the 1-bit arithmetic: bits a number, 32 for as it was."""

    position_embeddings: Literal[4, 8, 16, 32] = Field(
        8, description="Position and token-type embeddings; 4 and 8 are rounded by row."
    )
    pooler: Literal[4, 8, 16, 32] = Field(8, description="The pooler's weight, rounded by row.")
    vectors: Literal[16, 32] = Field(
        16, description="LayerNorms, biases, scales, shifts, and heads other than the pooler."
    )
    unused: bool = Field(
        False,
        description="Of a sentence-transformers checkpoint: the pooler, which no module reads, and "
        "positions beyond its longest sequence.",
    )


class Estimators(Section):
    """Ranks of the residual estimators by kind of module; 0 for none."""

    query: Rank = Field(0, ge=0)
    key: Rank = Field(0, ge=0)
    value: Rank = Field(0, ge=0)
    attention_output: Rank = Field(0, ge=0)
    ffn_up: Rank = Field(0, ge=0)
    ffn_gate: Rank = Field(0, ge=0, description="Of gated feed-forward networks.")
    ffn_down: Rank = Field(0, ge=0)
    bottleneck: Rank = Field(0, ge=0, description="MobileBERT's linears around a narrow block.")
    scores: Rank = Field(0, ge=0, description="Per head, from queries and keys.")
    context: Rank = Field(0, ge=0, description="Per head, from values.")
    attention_reads: Literal["heads", "hidden-states"] = Field(
        "heads",
        description="What scores and context are estimated from: a head's own queries, keys and "
        "values, or the hidden states, for all heads at once (BiPFT-B).",
    )
    bits: Literal[16, 32] = Field(16, description="Bits of a stored number of an estimator.")

    def ranks(self) -> dict[str, int]:
        """Kind of module to rank."""
        return self.model_dump(exclude={"attention_reads", "bits"})


class Words(Section):
    """The word embeddings as a model by themselves: trained before any layer is fitted to them."""

    steps: int = Field(0, ge=0, description="0 leaves the word embeddings as they are coded.")
    tokens: int = Field(1048576, ge=1, description="Of the text that they are trained on.")
    learning_rate: float = Field(
        5e-4, gt=0, description="Of latent weights; rises at first, then falls to 0."
    )
    frozen: bool = Field(False, description="Whether pretraining leaves them as they are.")


class Readout(Section):
    """A correction of a text's embedding from the means of its hidden states; once a text."""

    rank: Rank = Field(0, ge=0, description="0 for none; at most the width of the hidden states.")
    layers: int = Field(
        3,
        ge=1,
        description="Hidden states that it reads: the last, the embeddings', and others evenly "
        "between.",
    )
    bits: Literal[4, 8, 16, 32] = Field(
        4, description="Of a stored number; 4 and 8 are rounded by row."
    )
    pooling: Literal["mean", "first"] = Field(
        "mean", description="What the embedding of a text is: the mean of its tokens, or the first."
    )
    tokens: int = Field(131072, ge=1, description="Of the text that it is fitted to.")
    sequence_length: int = Field(
        256, ge=4, description="Longest text that it is fitted to; whole sentences are mixed in."
    )
    steps: int = Field(
        0, ge=0, description="Of gradient descent by the objective's sentence terms, after a ridge."
    )
    learning_rate: float = Field(5e-4, gt=0, description="Of these steps, over its size / 8.")


class Stage(Section):
    """A precision that pretraining goes on to, from a student of more bits (BiT's schedule)."""

    bits: Bits = Field(1, description="Bits of an activation, a query and a probability.")
    key_value_bits: Bits = Field(1, description="Bits of keys and values.")
    share: float = Field(0.5, gt=0, lt=1, description="Of all optimiser steps.")


class Initialisation(Section):
    """Where the binary model starts."""

    method: Literal["regression", "weight-svd", "random", "zero"] = Field(
        "regression",
        description="Estimators by reduced-rank regression of the output error, by SVD of the "
        "weights' residual, at random, or at zero.",
    )
    scales: Literal["least-squares", "magnitude"] = Field(
        "least-squares",
        description="Scales, shifts and biases by least squares of the output; or the papers' "
        "start: mean |W|, mean |x| of a first batch, no shifts.",
    )
    refits: int = Field(3, ge=0, description="Rounds of scales and estimator refitted in turn.")
    sign_sweeps: int = Field(
        1, ge=0, description="Sweeps of coordinate descent over weight signs; 0 keeps sign(W)."
    )
    layer_epochs: int = Field(
        0,
        ge=0,
        description="Passes of gradient descent over the calibration text, a layer at a time, "
        "after its closed forms.",
    )
    layer_learning_rate: float = Field(
        3e-3,
        gt=0,
        description="Of these passes, where closed forms leave half the variance or more, and less "
        "where they leave less; rises over their first tenth, then falls to 0.",
    )
    damping: float = Field(
        1e-3, gt=0, description="Ridge of the regression, relative to the mean input variance."
    )
    calibration_tokens: int = Field(65536, ge=1, description="Tokens of text to calibrate on.")
    sequence_length: int = Field(128, ge=4, description="Longest calibration sequence, in tokens.")
    batch_tokens: int = Field(4096, ge=1, description="Tokens of a calibration batch.")

    @model_validator(mode="after")
    def _regression_needs_moments(self) -> Self:
        if self.scales == "magnitude" and self.method == "regression":
            raise ValueError("method: regression needs scales: least-squares")
        return self


class Text(Section):
    """How text becomes training sequences."""

    unit: Literal["packed", "sentences"] = Field(
        "packed", description="Documents packed to full length, or single sentences."
    )
    sequence_length: int = Field(128, ge=4, description="Longest sequence, in tokens.")
    shortest: int = Field(6, ge=3, description="sentences: shorter ones are left out, in tokens.")
    overlong: Literal["cut", "skip"] = Field(
        "cut", description="sentences: cut those of more tokens off, or leave them out."
    )
    max_tokens: int | None = Field(
        None, ge=1, description="Stop reading the corpus after this many tokens; null reads all."
    )


class Terms(Section):
    """Weights of the distillation terms; 0 leaves a term out."""

    _options: ClassVar[set[str]] = {"temperature"}

    logits: float = Field(0.0, ge=0, description="Soft cross-entropy with the teacher's logits.")
    hidden_states: float = Field(0.0, ge=0, description="MSE of hidden states, per layer.")
    attention_scores: float = Field(0.0, ge=0, description="MSE of attention scores.")
    directions: float = Field(
        0.0, ge=0, description="BiBERT's direction matching of Q Q^T, K K^T and V V^T."
    )
    sentence_cosine: float = Field(0.0, ge=0, description="1 - cosine of sentence embeddings.")
    sentence_similarity: float = Field(
        0.0, ge=0, description="KL divergence of in-batch similarity distributions."
    )
    temperature: float = Field(0.05, gt=0, description="Of sentence_similarity.")

    def weights(self) -> dict[str, float]:
        """Term to weight, terms of weight zero left out."""
        values = self.model_dump(exclude=self._options)
        return {name: float(weight) for name, weight in values.items() if weight}


class Objective(Terms):
    """Weights of the pretraining's terms; 0 leaves a term out."""

    _options: ClassVar[set[str]] = {"temperature", "masking", "fresh_mlm_head"}

    mlm: float = Field(0.0, ge=0, description="Masked language modelling.")
    nsp: float = Field(0.0, ge=0, description="Next-sentence prediction, where there is a head.")
    masking: float = Field(0.15, gt=0, lt=1, description="Share of tokens masked for mlm.")
    fresh_mlm_head: bool = Field(
        False, description="Give a checkpoint without an MLM head a fresh, tied one."
    )


class TaskObjective(Terms):
    """Weights of the fine-tuning's terms; all but `task` need a fine-tuned teacher."""

    task: float = Field(1.0, ge=0, description="Cross-entropy or squared error with the labels.")
    logits: float = Field(1.0, ge=0, description="Soft cross-entropy with the teacher's logits.")
    hidden_states: float = Field(1.0, ge=0, description="MSE of hidden states, per layer.")


class Finetuning(Section):
    """How a checkpoint, binary or not, is fine-tuned on a labelled task."""

    sequence_length: int = Field(128, ge=4, description="Longest text or pair, in tokens.")
    full_precision_learning_rate: float = Field(
        5e-5, gt=0, description="Of a full-precision checkpoint, instead of training's."
    )
    adapter_learning_rate: float = Field(
        3e-3, gt=0, description="Of LoRA adapters, instead of training's."
    )
    pooling: Literal["mean", "first"] = Field(
        "mean",
        description="What a fresh head of a binary model reads: the mean of all tokens or, as in "
        "full precision, the first.",
    )
    similarity: Literal["cosine", "head"] = Field(
        "cosine",
        description="What predicts a number for two texts: the cosine of their embeddings, or a "
        "head that reads both in one sequence.",
    )
    objective: TaskObjective = TaskObjective()
    training: TrainingArgumentValues = Field(
        default_factory=dict, description="Keyword arguments of transformers.TrainingArguments."
    )
