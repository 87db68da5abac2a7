"""Swap a model's modules for binary ones: structure only, no values yet."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from bipft_compress.errors import RecipeError
from bipft_compress.families import (
    Encoder,
    EncoderLayer,
    describe,
    get_module,
    set_module,
    use_blocks,
)
from bipft_compress.nn import (
    Affine,
    BinaryAttention,
    BinaryLinear,
    Block,
    CompressedEmbedding,
    FrequencyAwareEmbedding,
    Readout,
    SignEmbedding,
    TiedDecoder,
    round_rows,
)
from bipft_compress.nn.readout import evenly_spaced
from bipft_compress.recipe import Recipe
from bipft_compress.spec import LinearSpec
from bipft_compress.structure.outputs import adapt_outputs
from bipft_compress.structure.pooling import pooling_of

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

    Every encoder layer becomes a block first: see `families.use_blocks`. New modules hold no
    meaningful values: the caller initialises them from the original or loads them from a file.
    Only shapes of `model`'s weights are read: it may be on the meta device.

    Returns:
        The parts of the model, and a decision for every module that has parameters.

    Raises:
        UnsupportedModelError: an architecture that cannot be made binary.
        RecipeError: a rank larger than a layer.
    """
    encoder = use_blocks(model)
    counts = _parameter_counts(model)
    decisions: list[Decision] = []
    for layer in encoder.layers:
        block = get_module(model, layer.block)
        assert isinstance(block, Block)
        decisions += _binarize(block, layer, recipe, counts)
    if recipe.readout.rank:
        encoder = _add_readout(model, encoder, recipe)
    adapt_outputs(model)
    decisions += _swap_embeddings(model, encoder, recipe, counts)
    decisions += _round_kept(model, encoder, recipe, counts)
    swapped = {decision.module for decision in decisions}
    decisions += _untouched(encoder, counts, swapped, model)
    return encoder, decisions


def on_meta(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of `model` without its numbers: as cheap as its module tree, ties kept."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        empty = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo)


def _binarize(
    block: Block, layer: EncoderLayer, recipe: Recipe, counts: dict[str, int]
) -> Iterator[Decision]:
    """Put binary linears and binary attention into a block."""
    device = next(block.parameters()).device
    linears = {}
    for path, spec in layer.linears():
        linear = linears[spec.name] = _linear(path, spec, recipe).to(device)
        reason = f"linear layer of the encoder; {linear.weight_bits}-bit weights, "
        reason += f"{linear.bits}-bit input, "
        reason += f"rank-{linear.rank} estimator" if linear.rank else "no estimator"
        yield Decision(path, spec.kind, counts[path], "binary", reason)
    block.set_linears(linears)
    block.attention.core = _attention(layer, recipe).to(device)
    if layer.spec.attention.relative is not None:
        reason = "keys and queries of positions: one sign a weight, one scale a head"
        parameters = counts[layer.attention]
        yield Decision(layer.attention, "attention_positions", parameters, "binary", reason)


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


def _linear(path: str, spec: LinearSpec, recipe: Recipe) -> BinaryLinear:
    precision = recipe.precision(path, spec.kind)
    _check_rank(spec.kind, precision.rank, min(spec.inputs, spec.outputs), path)
    return BinaryLinear(
        spec.inputs,
        spec.outputs,
        weight_bits=precision.weights,
        bits=precision.activations,
        rank=precision.rank,
        clip=recipe.activations.clip,
        elastic=recipe.activations.elastic,
        dynamic_scale=precision.dynamic_scale,
    )


def _attention(layer: EncoderLayer, recipe: Recipe) -> BinaryAttention:
    spec, ranks = layer.spec.attention, recipe.estimators.ranks()
    precision = recipe.precision(layer.attention)
    boolean = recipe.activations.attention == "boolean"
    if boolean and precision.activations != 1:
        raise RecipeError(
            f"modules: {layer.attention} has {precision.activations}-bit activations, and "
            "attention: boolean has one bit; set these to 1, or attention to softmax."
        )
    for kind in ("scores", "context"):
        _check_rank(kind, ranks[kind], spec.head_dim, f"a head of width {spec.head_dim}")
    return BinaryAttention(
        spec,
        bits=precision.activations,
        key_value_bits=precision.key_values,
        score_rank=ranks["scores"],
        context_rank=ranks["context"],
        clip=recipe.activations.clip,
        elastic=recipe.activations.elastic,
        boolean=boolean,
        from_hidden=recipe.estimators.attention_reads == "hidden-states",
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
        coded = SignEmbedding(rows, width, recipe.embeddings.bits)
        reason = f"word embeddings: {coded.bits} bit a weight, one scale a row"
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


def _add_readout(model: PreTrainedModel, encoder: Encoder, recipe: Recipe) -> Encoder:
    """Give the backbone a readout.

    Returns:
        The parts of the model with it.
    """
    chosen, backbone = recipe.readout, model.base_model
    layers = evenly_spaced(chosen.layers, model.config.num_hidden_layers)
    rank = min(chosen.rank, encoder.hidden_size)
    words = get_module(model, encoder.word_embeddings)
    readout = Readout(
        encoder.hidden_size,
        layers,
        rank,
        words.num_embeddings,  # type: ignore[arg-type]
        first_token=chosen.pooling == "first",
    )
    backbone.readout = readout.to(next(backbone.parameters()).device)
    if chosen.bits <= 8:
        for linear in (readout.down, readout.up):
            round_rows(linear, chosen.bits)
    return describe(model)


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
    backbone = {id(module) for module in model.base_model.modules()}
    inside = tuple(f"{layer.path}." for layer in encoder.layers)
    for path, own in counts.items():
        if own == 0 or any(path == done or path.startswith(f"{done}.") for done in swapped):
            continue
        if _is_norm(get_module(model, path)):
            kind, reason = "layer_norm", "normalisation: few weights, full precision needed"
        elif path in encoder.embeddings_kept:
            kind, reason = "position_embeddings", "kept as it is by the recipe"
        elif path == encoder.pooler:
            kind, reason = "pooler", "kept as it is by the recipe"
        elif path.startswith(inside):
            kind, reason = "layer_part", "a part of the layer that has no binary form"
        elif id(get_module(model, path)) in backbone:
            kind, reason = "projection", "between embeddings and layers: once a token"
        else:
            kind, reason = "head", "task head: outside the encoder"
            if pooling_of(model.config) == "mean":
                reason += "; reads the mean of all tokens"
        decisions.append(Decision(path, kind, own, "kept", reason))
    return decisions


def _is_norm(module: nn.Module) -> bool:
    """Some families have norms of a class of their own around their blocks."""
    return isinstance(module, Affine) or type(module).__name__.endswith("Norm")
