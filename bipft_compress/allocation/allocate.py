"""Bits and ranks for every module of a model, within a budget."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import nn

from bipft_compress.allocation.choose import Budget, Cost, Option, cheapest, choose, total_cost
from bipft_compress.allocation.latency import layer_seconds, timed_options
from bipft_compress.allocation.measure import Part, measure, same_bits, uniform_activations
from bipft_compress.allocation.targets import Allocation, Row, Targets
from bipft_compress.counting import ModelShape, count_operations, read_layers, read_shape
from bipft_compress.counting.pipeline import FULL_BYTES, pipeline_bytes
from bipft_compress.errors import UserError
from bipft_compress.families import Encoder, describe, max_sequence_length, teacher_of
from bipft_compress.fitting.calibration import calibration_text, first_tokens
from bipft_compress.loading import SentencePipeline
from bipft_compress.recipe import Precision, Recipe
from bipft_compress.spec import KINDS
from bipft_compress.storage.codec import file_bytes, packed_like
from bipft_compress.storage.plan import storage_plan
from bipft_compress.structure.swap import on_meta, swap
from bipft_compress.text.batches import calibration_batches

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MEASURED_TOKENS = 2048
"""Tokens of calibration text that errors are measured on: they only rank choices."""

BATCH_TOKENS = 1024

ROUNDS = 8
"""Most corrections of a budget by what the counts say of the whole model."""


def check_recipe(recipe: Recipe) -> None:
    """Refuse a recipe that fixes bits itself.

    Raises:
        UserError: it does.
    """
    recipe.check_start()
    if recipe.modules:
        raise UserError(
            f"Recipe {recipe.name} fixes bits by module, and a target chooses them: leave one "
            "of the two out."
        )
    if recipe.activations.attention == "boolean":
        raise UserError(
            f"Recipe {recipe.name} has attention: boolean, which has one bit, and a target "
            "chooses bits: use a recipe with softmax."
        )


class Allocator:
    """Measures a model once; then `allocate` finds bits for any targets.

    Args:
        model: full-precision encoder, any head; not changed.
        tokenizer: of `model`.
        recipe: everything but the bits and ranks of linear layers, attention and word embeddings.
        calibration: text like that the model will see.
        length: tokens of the sequence that operations are counted for, where the model has as many
            positions.
        pipeline: what sentence-transformers has behind the encoder: it counts with the model.

    Raises:
        UserError: the recipe fixes bits itself.
        UnsupportedModelError: an architecture that cannot be made binary.
        CorpusError: the text is missing, empty or not text.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        recipe: Recipe,
        calibration: str | Path,
        *,
        length: int = 128,
        pipeline: SentencePipeline | None = None,
    ) -> None:
        check_recipe(recipe)
        self._pipeline = pipeline
        self.model, self.length = model, min(length, max_sequence_length(model.config))
        self.recipe = recipe.changed(
            weights={"bits": 1},
            activations={"bits": 1, "key_value_bits": 1, "dynamic_scale": "none"},
            embeddings={"code": "sign", "bits": 1},
            estimators=dict.fromkeys(KINDS, 0),
        )
        self.text = calibration_text(tokenizer, recipe, calibration, model)
        embedding = model.get_input_embeddings()
        assert isinstance(embedding, nn.Embedding)
        frequencies = self.text.frequencies(embedding.num_embeddings)
        teacher = teacher_of(model)
        empty, encoder = self._swapped(self.recipe)
        self._one_bit = shape = read_shape(empty, encoder, 1, self.length)
        self.parts: list[Part] = measure(
            teacher,
            describe(teacher),
            shape,
            calibration_batches(first_tokens(self.text.layers, MEASURED_TOKENS), BATCH_TOKENS),
            frequencies,
            recipe,
        )
        self._options = {part.name: part.options for part in self.parts}
        numbers = sum(weight.numel() for weight in model.parameters())
        self._full = Cost(
            count_operations(shape, pipeline).full_precision,
            pipeline_bytes(pipeline)[0] + FULL_BYTES * numbers,
        )
        # Options have the whole bytes of their codes, and what their operations are above these.
        cost = self._count(self.recipe)
        coded = sum(part.options[0].cost.bytes for part in self.parts)
        self._fixed = Cost(cost.operations, cost.bytes - coded)

    def allocate(self, targets: Targets) -> Allocation:
        """The bits of least error that reach the targets.

        Raises:
            UserError: no bits reach them.
        """
        full, timed = self._full, targets.latency_ms is not None
        budget = Budget(
            None if targets.operations is None else full.operations / targets.operations,
            None if targets.memory is None else full.bytes / targets.memory,
            None if targets.latency_ms is None else targets.latency_ms / 1000,
        )
        options = self._timed() if timed else self._options
        fixed = self._fixed
        if timed:
            fixed += Cost(seconds=self._seconds(self._one_bit))
        # Parts are not quite independent: a round corrects what the next one holds to be fixed.
        best: Allocation | None = None
        for number in range(ROUNDS):
            chosen = choose(options, fixed, budget)
            if chosen is None:
                break
            recipe, cost = self._counted(chosen, timed=timed)
            beyond = cost - total_cost(options, chosen)
            if not budget.allows(cost):
                # By little at first, for less is left to spend; then by more, or rounds run out.
                fixed += budget.excess(cost, times=2**number)
                continue
            found = self._allocation(recipe, chosen, cost)
            if best is not None and found.error >= best.error:
                break
            best, fixed = found, beyond
        if best is not None:
            return best
        # What was held to be fixed may be more than the cheapest choice has to spare.
        chosen = cheapest(options, budget)
        recipe, cost = self._counted(chosen, timed=timed)
        if budget.allows(cost):
            return self._allocation(recipe, chosen, cost)
        raise self._refusal(targets)

    def latency_ms(self, recipe: Recipe) -> float | None:
        """Milliseconds of the layers of a recipe's model; None where no kernel runs them."""
        try:
            return 1000 * self._seconds(self._shape(*self._swapped(recipe)))
        except UserError:
            return None

    def _seconds(self, shape: ModelShape) -> float:
        return sum(layer.calls * layer_seconds(layer, self.length) for layer in shape.layers)

    def _timed(self) -> dict[str, tuple[Option, ...]]:
        """The options with seconds, above those of one bit."""
        layers = self._one_bit.layers
        return {
            part.name: part.options
            if part.layer is None
            else timed_options(part, layers[part.layer], self.length)
            for part in self.parts
        }

    def ladder(self, count: int) -> list[Targets]:
        """Targets from the cheapest choice of bits to the finest, in equal ratios.

        Args:
            count: how many, at least 2.
        """
        full = self._full
        both = Budget(operations=full.operations, bytes=full.bytes)
        _, least = self._counted(cheapest(self._options, both))
        finest = {
            name: min(range(len(of_part)), key=lambda n, of_part=of_part: of_part[n].error)  # type: ignore[misc]
            for name, of_part in self._options.items()
        }
        _, most = self._counted(finest)

        def between(low: float, high: float, whole: float, step: int) -> float:
            # A small model with estimators everywhere may have more operations than the original.
            high = min(high, 0.99 * whole)
            # The ends are what was counted: a hair more keeps rounding from refusing them.
            ratio: float = whole / (low * (high / low) ** (step / (count - 1)))
            return ratio * (1 - 1e-9)

        return [
            Targets(
                between(least.operations, most.operations, full.operations, step),
                between(least.bytes, most.bytes, full.bytes, step),
            )
            for step in range(count)
        ]

    def uniform(self, weights: int, activations: int, embeddings: int, rank: int = 0) -> Allocation:
        """The same bits and ranks everywhere: what an allocation is compared with."""
        chosen = {}
        for part in self.parts:
            bits = same_bits(part, weights, embeddings)
            same = [
                number
                for number, choice in enumerate(part.choices)
                if bits in (None, choice.weights)
                and choice.activations == uniform_activations(part, activations)
                # One bit needs no magnitudes, and folds without.
                and (activations > 1 or choice.dynamic_scale == "none")
                and choice.rank == (rank if part.kind == "linear" else 0)
            ]
            chosen[part.name] = min(same, key=lambda n, part=part: part.options[n].error)  # type: ignore[misc]
        recipe, cost = self._counted(chosen)
        return self._allocation(recipe, chosen, cost)

    def _allocation(self, recipe: Recipe, chosen: dict[str, int], cost: Cost) -> Allocation:
        rows = []
        for part in self.parts:
            choice, option = part.choices[chosen[part.name]], part.options[chosen[part.name]]
            rows.append(
                Row(
                    part.name, part.kind, choice.weights, choice.activations,
                    choice.dynamic_scale, choice.rank, option.error,
                )
            )  # fmt: skip
        return Allocation(
            recipe,
            self._full.operations / cost.operations,
            self._full.bytes / cost.bytes,
            sum(row.error for row in rows),
            tuple(rows),
            1000 * cost.seconds if cost.seconds else None,
        )

    def _refusal(self, targets: Targets) -> UserError:
        full, nearest = self._full, []
        if targets.operations is not None:
            _, cost = self._counted(cheapest(self._options, Budget(operations=1.0)))
            nearest.append(f"{full.operations / cost.operations:.1f} times fewer operations")
        if targets.memory is not None:
            _, cost = self._counted(cheapest(self._options, Budget(bytes=1.0)))
            nearest.append(f"{full.bytes / cost.bytes:.1f} times less memory")
        if targets.latency_ms is not None:
            _, cost = self._counted(cheapest(self._timed(), Budget(seconds=1.0)), timed=True)
            nearest.append(f"{1000 * cost.seconds:.3g} ms")
        return UserError(
            "No choice of bits reaches these targets: the nearest that this model and recipe allow "
            f"is {' and '.join(nearest)}; ask for that or less."
        )

    def _with_bits(self, chosen: dict[str, int]) -> Recipe:
        modules: dict[str, Precision] = {}
        recipe = self.recipe
        for part in self.parts:
            choice = part.choices[chosen[part.name]]
            if part.kind == "embedding":
                recipe = recipe.changed(embeddings={"bits": choice.weights})
                if choice.weights > 1:
                    # Layers of several bits do best with words as near the original's as can be.
                    recipe = recipe.with_words_as_coded()
            elif part.kind == "attention":
                modules[part.name] = Precision.model_validate(
                    {"activations": choice.activations, "key_values": choice.activations}
                )
            else:
                modules[part.name] = Precision.model_validate(
                    {
                        "weights": choice.weights,
                        "activations": choice.activations,
                        "dynamic_scale": choice.dynamic_scale,
                        "rank": choice.rank,
                    }
                )
        return recipe.model_copy(update={"modules": modules})

    def _swapped(self, recipe: Recipe) -> tuple[PreTrainedModel, Encoder]:
        """The structure of the compressed model, without numbers."""
        empty = on_meta(self.model)
        encoder, _ = swap(empty, recipe)
        nn.Module.to(empty, "meta")
        return empty, encoder

    def _shape(self, empty: PreTrainedModel, encoder: Encoder) -> ModelShape:
        # What is outside the layers has no bits to choose, and takes long to find.
        return replace(self._one_bit, layers=read_layers(empty, encoder))

    def _count(self, recipe: Recipe, *, timed: bool = False) -> Cost:
        """What the model costs that a recipe makes."""
        empty, encoder = self._swapped(recipe)
        shape = self._shape(empty, encoder)
        plan, state = storage_plan(empty, encoder, recipe), empty.state_dict()
        size = file_bytes(
            {stored.name: packed_like(stored, state[name].shape) for name, stored in plan.items()}
        )
        return Cost(
            count_operations(shape, self._pipeline).compressed,
            size + pipeline_bytes(self._pipeline)[1],
            self._seconds(shape) if timed else 0.0,
        )

    def _counted(self, chosen: dict[str, int], *, timed: bool = False) -> tuple[Recipe, Cost]:
        recipe = self._with_bits(chosen)
        return recipe, self._count(recipe, timed=timed)
