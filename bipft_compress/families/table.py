"""Where each model family keeps its modules: the only place that names them.

A new family is one more entry. Paths are dotted; those of a layer are relative to the layer, those
of the embeddings to the base model (``model.base_model``).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """The module paths of one model family.

    `attention` is the module that calls transformers' attention interface, `embeddings_kept` the
    other embedding tables and projections beside the word embeddings, and `activation` the
    configuration's name for the function between the two ffn linears.
    """

    layers: str
    attention: str
    query: str
    key: str
    value: str
    attention_output: str
    ffn_up: str
    ffn_down: str
    attention_norm: str
    output_norm: str
    word_embeddings: str = "embeddings.word_embeddings"
    embeddings_kept: tuple[str, ...] = (
        "embeddings.position_embeddings",
        "embeddings.token_type_embeddings",
    )
    pooler: str = "pooler.dense"
    activation: str = "hidden_act"


BERT = Family(
    layers="encoder.layer",
    attention="attention.self",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_output="attention.output.dense",
    ffn_up="intermediate.dense",
    ffn_down="output.dense",
    attention_norm="attention.output.LayerNorm",
    output_norm="output.LayerNorm",
)

DISTILBERT = Family(
    layers="transformer.layer",
    attention="attention",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    attention_output="attention.out_lin",
    ffn_up="ffn.lin1",
    ffn_down="ffn.lin2",
    attention_norm="sa_layer_norm",
    output_norm="output_layer_norm",
    embeddings_kept=("embeddings.position_embeddings",),
    activation="activation",
)

FAMILIES: dict[str, Family] = {
    "bert": BERT,
    "roberta": BERT,
    "xlm-roberta": BERT,
    "camembert": BERT,
    "electra": BERT,
    "distilbert": DISTILBERT,
}
"""Model type, as in ``config.json``, to the paths of its modules."""

POSITIONS_AFTER_PADDING = frozenset({"roberta", "xlm-roberta", "camembert"})
"""Model types whose first position is the one after the padding index."""
