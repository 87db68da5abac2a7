"""Swap a model's modules for binary ones: structure only, no values yet."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from torch import nn

from bipft_compress.convert.attach import attach, use_binary_attention
from bipft_compress.convert.pooling import apply_pooling, pooling_of
from bipft_compress.errors import RecipeError
from bipft_compress.families import Encoder, describe, get_module, set_module
from bipft_compress.nn import (
    BinaryAttention,
    BinaryLinear,
    CompressedEmbedding,
    FrequencyAwareEmbedding,
    SignEmbedding,
    TiedDecoder,
    round_rows,
)
from bipft_compress.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Decision:
    """What happened to one module, and why."""

    module: str
    kind: str
    parameters: int
    action: str
    """``binary``, ``coded``, ``rounded`` or ``kept``."""
    reason: str

    def to_dict(self) -> dict[str, str | int]:
        return asdict(self)


def swap(model: PreTrainedModel, recipe: Recipe) -> tuple[Encoder, list[Decision]]:
    """Replace linears, attention and word embeddings of `model` in place.

    New modules hold no meaningful values: the caller initialises them from the original or loads
    them from a file. Only shapes of `model`'s weights are read: it may be on the meta device.

    Returns:
        The parts of the model, and a decision for every module that has parameters.

    Raises:
        UnsupportedModelError: an architecture that cannot be made binary.
        RecipeError: a rank larger than a layer.
    """
    encoder = describe(model)
    counts = _parameter_counts(model)
    decisions: list[Decision] = []
    for _, kind, path in encoder.linears():
        decisions.append(_swap_linear(model, path, kind, recipe, counts[path]))
    for index in range(len(encoder.layers)):
        attach(model, encoder, index, _attention(encoder, recipe).to(model.device))
    use_binary_attention(model)
    apply_pooling(model)
    decisions += _swap_embeddings(model, encoder, recipe, counts)
    decisions += _round_kept(model, encoder, recipe, counts)
    swapped = {decision.module for decision in decisions}
    decisions += _untouched(encoder, counts, swapped, model)
    return encoder, decisions


def _parameter_counts(model: nn.Module) -> dict[str, int]:
    """Module path to the number of parameters it holds itself; tied ones count where met first."""
    counts: dict[str, int] = {}
    seen: set[int] = set()
    for path, module in model.named_modules():
        own = [weight for weight in module.parameters(recurse=False) if id(weight) not in seen]
        seen.update(map(id, own))
        counts[path] = sum(weight.numel() for weight in own)
    return counts


def _check_rank(kind: str, rank: int, largest: int, where: str) -> None:
    if rank > largest:
        raise RecipeError(
            f"estimators.{kind} = {rank} is larger than {where} allows: use {largest} or less."
        )


def _swap_linear(
    model: PreTrainedModel, path: str, kind: str, recipe: Recipe, parameters: int
) -> Decision:
    linear = get_module(model, path)
    assert isinstance(linear, nn.Linear)
    rank = recipe.estimators.ranks()[kind]
    _check_rank(kind, rank, min(linear.in_features, linear.out_features), path)
    binary = BinaryLinear(
        linear.in_features,
        linear.out_features,
        bits=recipe.activations.bits,
        rank=rank,
        clip=recipe.activations.clip,
        elastic=recipe.activations.elastic,
    ).to(linear.weight.device)
    set_module(model, path, binary)
    reason = f"linear layer of the encoder; {recipe.activations.bits}-bit input"
    reason += f", rank-{rank} estimator" if rank else ", no estimator"
    return Decision(path, kind, parameters, "binary", reason)


def _attention(encoder: Encoder, recipe: Recipe) -> BinaryAttention:
    ranks = recipe.estimators.ranks()
    from_hidden = recipe.estimators.attention_reads == "hidden-states"
    for kind in ("scores", "context"):
        _check_rank(kind, ranks[kind], encoder.head_dim, f"a head of width {encoder.head_dim}")
    return BinaryAttention(
        encoder.heads,
        encoder.head_dim,
        bits=recipe.activations.bits,
        key_value_bits=recipe.activations.key_value_bits,
        score_rank=ranks["scores"],
        context_rank=ranks["context"],
        clip=recipe.activations.clip,
        elastic=recipe.activations.elastic,
        boolean=recipe.activations.attention == "boolean",
        hidden_size=encoder.hidden_size if from_hidden else 0,
    )


def _swap_embeddings(
    model: PreTrainedModel, encoder: Encoder, recipe: Recipe, counts: dict[str, int]
) -> list[Decision]:
    path, code = encoder.word_embeddings, recipe.embeddings.code
    table = get_module(model, path)
    assert isinstance(table, nn.Embedding)
    rows, width = table.weight.shape
    if code == "full":
        reason = "word embeddings, full precision by the recipe"
        return [Decision(path, "word_embeddings", counts[path], "kept", reason)]
    coded: CompressedEmbedding
    if code == "sign":
        coded = SignEmbedding(rows, width)
        reason = "word embeddings: one sign a weight, one scale a row"
    else:
        frequent = min(max(1, round(rows * recipe.embeddings.frequent_fraction)), rows - 1)
        subvector = min(recipe.embeddings.subvector, width)
        coded = FrequencyAwareEmbedding(rows, width, frequent_rows=frequent, subvector=subvector)
        reason = (
            f"word embeddings: the {frequent} most frequent rows in 4 bits, "
            f"{subvector} numbers a byte in the others"
        )
    set_module(model, path, coded.to(table.weight.device))
    decisions = [Decision(path, "word_embeddings", counts[path], "coded", reason)]
    if encoder.decoder is not None:
        decoder = get_module(model, encoder.decoder)
        bias = decoder.bias
        assert bias is None or isinstance(bias, nn.Parameter)
        set_module(model, encoder.decoder, TiedDecoder(coded, bias))
        reason = "output layer: reads the coded word embeddings, so both stay one table"
        decisions.append(
            Decision(encoder.decoder, "decoder", counts[encoder.decoder], "coded", reason)
        )
    return decisions


def _round_kept(
    model: PreTrainedModel, encoder: Encoder, recipe: Recipe, counts: dict[str, int]
) -> list[Decision]:
    chosen = [
        (path, "position_embeddings", recipe.kept.position_embeddings)
        for path in encoder.embeddings_kept
    ]
    if encoder.pooler is not None:
        chosen.append((encoder.pooler, "pooler", recipe.kept.pooler))
    decisions = []
    for path, kind, bits in chosen:
        if bits <= 8:
            round_rows(get_module(model, path), bits)
            reason = f"outside the 1-bit arithmetic; stored in {bits} bits by row"
            decisions.append(Decision(path, kind, counts[path], "rounded", reason))
    return decisions


def _untouched(
    encoder: Encoder, counts: dict[str, int], swapped: set[str], model: PreTrainedModel
) -> list[Decision]:
    decisions = []
    for path, own in counts.items():
        if own == 0 or any(path == done or path.startswith(f"{done}.") for done in swapped):
            continue
        if isinstance(get_module(model, path), nn.LayerNorm):
            kind, reason = "layer_norm", "normalisation: few weights, full precision needed"
        elif path in encoder.embeddings_kept:
            kind, reason = "position_embeddings", "kept as it is by the recipe"
        elif path == encoder.pooler:
            kind, reason = "pooler", "kept as it is by the recipe"
        else:
            kind, reason = "head", "task head or projection: outside the encoder layers"
            if pooling_of(model.config) == "mean":
                reason += "; reads the mean of all tokens"
        decisions.append(Decision(path, kind, own, "kept", reason))
    return decisions
