"""The report as data: every field of ``reporting.json``, typed and described."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from bipft_compress.counting.schema import Memory, Operations, PapersConvention, Strict
from bipft_compress.structure.knowledge import Knowledge

SCHEMA_VERSION: Literal[1] = 1

STAGES = {
    "embeddings": "embeddings",
    "linear": "linear products",
    "attention": "attention products",
    "rest": "rest of the layers",
    "pooler": "pooler",
    "outside": "Python, torch, heads",
}
"""Stages of a forward pass, in the order shown; see `Profile`."""


class Score(Strict):
    """One measure of quality, before and after; other numbers may stand beside the named ones."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float | str] = Field(init=False)

    full_precision: float | None = Field(None, description="Of the model as it was, where known.")
    compressed: float = Field(description="Of the binary model.")
    embedding_floor: float | None = Field(
        None, description="What the word embeddings alone give, with no encoder."
    )
    recovered: float | None = Field(
        None, description="Share of the distance from the floor to full precision."
    )


class TrainingPoint(Strict):
    """One logged step of training."""

    step: int = Field(ge=0, description="Optimizer steps so far.")
    tokens: int = Field(ge=0, description="Tokens trained on so far.")
    loss: float = Field(description="The weighted sum of the terms.")
    terms: dict[str, float] = Field(
        default_factory=dict, description="Loss term to its value, before weighting."
    )
    learning_rate: float | None = Field(None, description="At this step.")


class Swapped(Strict):
    """What happened to one module of the original model."""

    module: str = Field(description="Path in the model.")
    kind: str = Field(description="What the module is.")
    parameters: int = Field(ge=0, description="Numbers it held.")
    action: str = Field(description="binary, coded, rounded or kept.")
    reason: str = Field(description="Why, in words.")


class MeasuredSystem(Strict):
    """One system on one machine: the packed model, or a peer that runs the original."""

    name: str = Field(description="bipft-compress, or the peer.")
    milliseconds: float | None = Field(
        None, description="Median of a forward pass; null where it does not run."
    )
    ratio: float | None = Field(
        None,
        description="Its time over the packed model's: median over rounds; above 1 it is slower.",
    )
    file_bytes: int | None = Field(None, description="Of its file with weights.")
    resident_bytes: int | None = Field(
        None, description="By how much loading the model grew a process; null where not measured."
    )
    note: str = Field("", description="Its precision, or why it does not run.")


class Profile(Strict):
    """Stages of a forward pass of the packed model, and the limit of its binary products."""

    milliseconds: float = Field(description="Median of a pass, apart from those beside peers.")
    stages: dict[str, float] = Field(
        description="Milliseconds of embeddings, of linear and attention (their products), of the "
        "rest of the layers, of the pooler and of what is outside them (Python, torch, heads)."
    )
    binary_macs: int = Field(
        ge=1, description="Multiply-accumulates of one bit by one; m by n bits count m n."
    )
    limit_milliseconds: float = Field(
        description="What binary_macs take on registers, where the kernels' XOR, popcount "
        "and add wait for no memory: measured between the passes."
    )
    reached: float = Field(description="limit_milliseconds / milliseconds.")


class Measured(Strict):
    """Latency and size of the packed model beside peers, in one process, rounds interleaved."""

    version: Literal[1, 2] = Field(2, description="Of this section's layout; 2 has a profile.")
    batch: int = Field(ge=1, description="Sequences of a forward pass.")
    sequence_length: int = Field(ge=1, description="Tokens of a sequence, none of them padding.")
    threads: int = Field(ge=1, description="That every system may use.")
    rounds: int = Field(ge=1, description="Forward passes of each system.")
    path: str = Field(description="Kernels chosen: amx, avx512, avx2, neon, portable or reference.")
    blocks: dict[str, int] = Field(
        default_factory=dict,
        description="Kernels, or reference, to the encoder blocks that ran on it; empty where not "
        "known.",
    )
    machine: str = Field(description="Processor, in words.")
    torch_version: str = Field(description="Of PyTorch.")
    date: str = Field(description="ISO 8601, UTC.")
    original: str = Field(description="What the peers run, in words.")
    systems: list[MeasuredSystem] = Field(
        description="The packed model first; those that do not run last."
    )
    profile: Profile | None = Field(
        None, description="Of the packed model; null in version 1, and where the reference runs."
    )


class RunFacts(Strict):
    """What only the run knows; a report without it has the counts alone."""

    checkpoint: str | None = Field(None, description="Name of the original checkpoint.")
    quality: dict[str, Score] = Field(default_factory=dict, description="Measure to its scores.")
    layer_errors: list[float] = Field(
        default_factory=list,
        description="Squared error of each encoder layer's output over the teacher's variance, "
        "right after the conversion.",
    )
    knowledge: Knowledge = Field(
        default_factory=Knowledge, description="What each layer knows of a text."
    )
    training: list[TrainingPoint] = Field(default_factory=list, description="Logged steps.")
    swapped: list[Swapped] | None = Field(
        None, description="Decisions of the conversion; worked out again where absent."
    )
    measured: Measured | None = Field(None, description="Of the packed model, on some machine.")
    provenance: dict[str, dict[str, Any]] | None = Field(
        None, description="Job to its facts; collected where absent."
    )


class ModelFacts(Strict):
    """The original model."""

    checkpoint: str | None = Field(description="Its name, where known.")
    type: str = Field(description="model_type of its configuration.")
    architecture: str = Field(description="Class that was counted.")
    layers: int = Field(description="Encoder layers that a forward pass runs.")
    stored_layers: int | None = Field(
        None, description="Encoder layers that are stored: fewer where layers share weights."
    )
    hidden_size: int = Field(description="Width of the residual stream.")
    intermediate_size: int = Field(description="Width inside the feed-forward network.")
    heads: int = Field(description="Attention heads of a layer.")
    head_dim: int = Field(description="Width of a head.")
    vocabulary: int = Field(description="Rows of the word embeddings.")
    activation: str = Field(description="Activation function of the feed-forward network.")
    parameters: int = Field(description="Numbers of the original, shared ones once.")


class Report(Strict):
    """A compression, counted and described: the contents of ``reporting.json``."""

    schema_version: Literal[1] = Field(SCHEMA_VERSION, description="Of this layout.")
    model: ModelFacts = Field(description="The original model.")
    recipe: dict[str, Any] = Field(description="Every choice of the compression.")
    batch: int = Field(ge=1, description="Sequences of the forward pass counted.")
    sequence_length: int = Field(ge=1, description="Tokens of a sequence.")
    operations: Operations = Field(description="Operations of one forward pass.")
    memory: Memory = Field(description="Bytes of the weights.")
    papers_convention: PapersConvention = Field(description="As the papers count.")
    quality: dict[str, Score] = Field(description="Measure to its scores; may be empty.")
    layer_errors: list[float] = Field(
        description="Squared error of each encoder layer's output over the teacher's variance, "
        "right after the conversion."
    )
    knowledge: Knowledge = Field(
        default_factory=Knowledge,
        description="Cosine with the original's embedding, as a linear map reads it from each "
        "layer, on texts that it was not fitted to; empty where not measured.",
    )
    training: list[TrainingPoint] = Field(description="Logged steps; may be empty.")
    measured: Measured | None = Field(
        None, description="Latency and size beside peers; null where not measured."
    )
    swapped: list[Swapped] = Field(description="What happened to every module with parameters.")
    provenance: dict[str, dict[str, Any]] = Field(
        description="Job (compress, pretrain, report) to its facts: command, package_version, "
        "torch_version, git_commit, date, machine, seed and others."
    )

    def __repr__(self) -> str:
        """Short: a notebook would print every module."""
        name = self.model.checkpoint or self.model.architecture
        return (
            f"Report({name!r}, {self.operations.ratio:.1f} times fewer operations, "
            f"{self.memory.ratio:.1f} times less memory)"
        )


def report_json_schema() -> dict[str, Any]:
    """The JSON Schema of ``reporting.json``."""
    return Report.model_json_schema()
