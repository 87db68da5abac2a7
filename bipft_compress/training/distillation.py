"""The loss of pretraining and fine-tuning: what the student is asked to match."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bipft_compress import losses
from bipft_compress.errors import RecipeError
from bipft_compress.families import Encoder, get_module, use_blocks
from bipft_compress.nn.pooling import Pool, mean_pool
from bipft_compress.recipe import Terms
from bipft_compress.training.heads import at_positions, has_fresh_head, logits_by_head
from bipft_compress.training.recording import AttentionCall, recording

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger("bipft_compress")

IGNORED_LABEL = -100
"""Label of positions that no prediction is asked for (as in transformers)."""

_OF_BLOCKS = {"directions", "attention_scores"}
_WITHOUT_TEACHER = {"mlm", "nsp", "task"}

_OF_CHOICES = "ForMultipleChoice"
"""Ending of classes that take several texts an example, (batch, choices, length)."""

_OF_QUESTIONS = "SplinterForPreTraining"
"""Reads at the places of [QUESTION] tokens, which plain text does not have."""


class Distillation:
    """The recipe's terms for one batch, weighted and summed.

    Args:
        student: the binary model.
        teacher: its full-precision original; frozen here, and its layers become blocks. Without
            one, only the terms that compare with labels count.
        encoder: parts of both.
        objective: weights of the terms.
        pool: from hidden states to the embedding that terms of sentences compare.

    Raises:
        RecipeError: `mlm` without a head for it, or there is no term left.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel | None,
        encoder: Encoder,
        objective: Terms,
        pool: Pool = mean_pool,
    ) -> None:
        self.student, self.encoder, self.objective = student, encoder, objective
        self.pool = pool
        self.weights = objective.weights()
        if teacher is None:
            kept = self.weights.keys() & _WITHOUT_TEACHER
            self.weights = {name: self.weights[name] for name in kept}
        else:
            use_blocks(teacher)
            teacher.eval().requires_grad_(False)
        self._check_heads(teacher)
        # One that no term looks at need not run.
        self.teacher = teacher if self.weights.keys() - _WITHOUT_TEACHER else None
        if not self.weights:
            raise RecipeError(
                "Nothing to train for: every weight of the recipe's objective is 0, needs a "
                "--teacher, or a head that this checkpoint does not have."
            )
        self._records = bool(self.weights.keys() & _OF_BLOCKS)

    @property
    def gives_logits(self) -> bool:
        """Whether the student is more than an encoder."""
        return self.student.base_model is not self.student

    def _check_heads(self, teacher: PreTrainedModel | None) -> None:
        name = type(self.student).__name__
        has_mlm = self.student.get_output_embeddings() is not None
        if "mlm" in self.weights and not has_mlm:
            raise RecipeError(
                f"objective.mlm needs a masked-language-model head and {name} has none: set it to "
                "0, or set objective.fresh_mlm_head to true and compress again."
            )
        if not hasattr(get_module(self.student, self.encoder.layers[0].path), "block"):
            for term in _OF_BLOCKS:
                self._leave_out(term, "the student is in full precision")
        if not hasattr(getattr(self.student, "cls", None), "seq_relationship"):
            self._leave_out("nsp", f"{name} has no next-sentence head")
        if not self.gives_logits:
            self._leave_out("logits", f"{name} has no head")
        elif name.endswith(_OF_CHOICES):
            self._leave_out("logits", "a text alone is no choice among several")
        elif name == _OF_QUESTIONS:
            self._leave_out("logits", "a text alone asks no question")
        elif teacher is not None and has_fresh_head(teacher):
            self._leave_out("logits", "the original's head is a fresh one, which knows nothing")

    def _leave_out(self, term: str, reason: str) -> None:
        if self.weights.pop(term, None) is not None:
            logger.info("objective.%s is left out: %s", term, reason)

    def _recording(self, model: PreTrainedModel) -> AbstractContextManager[list[AttentionCall]]:
        return recording(model, self.encoder) if self._records else nullcontext([])

    def __call__(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Unweighted terms on one batch.

        Args:
            model: the student as the trainer wraps it.
            batch: ``input_ids`` and ``attention_mask`` (batch, length); ``labels`` for mlm, -100
                where nothing is asked, or for task (batch,), integers of classes or numbers to
                predict, of which a student without a head has two texts each: those of the
                first half of the batch and those of the second; ``next_sentence_label`` (batch,)
                for nsp.
        """
        inputs: dict[str, Tensor] = {
            key: batch[key]
            for key in ("input_ids", "attention_mask", "token_type_ids")
            if key in batch
        }
        # A head over the vocabulary costs as much as the encoder: it sees what is asked for alone.
        asked = batch["labels"] >= 0 if "mlm" in self.weights else None
        own = self._student_inputs(inputs)
        if self.teacher is None:
            with at_positions(self.student, asked):
                return self._head_terms(model(**own), {}, batch)
        teacher = self.teacher if "logits" in self.weights else self.teacher.base_model
        with (
            torch.no_grad(),
            self._recording(self.teacher) as teacher_calls,
            at_positions(self.teacher, asked),
        ):
            teacher_outputs = teacher(**inputs, output_hidden_states=True)
        with self._recording(self.student) as student_calls, at_positions(self.student, asked):
            student_outputs = model(**own, output_hidden_states=True)
        mask = batch["attention_mask"]
        terms = self._encoder_terms(
            student_outputs.hidden_states, teacher_outputs.hidden_states, mask
        )
        terms |= self._attention_terms(student_calls, teacher_calls, mask) if self._records else {}
        terms |= self._head_terms(student_outputs, teacher_outputs, batch)
        return terms

    def _student_inputs(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the student's class takes; a head that text alone says nothing to runs unread."""
        name = type(self.student).__name__
        if name.endswith(_OF_CHOICES):
            return {key: values.unsqueeze(1) for key, values in inputs.items()}
        if name == _OF_QUESTIONS:
            return inputs | {"question_positions": torch.zeros_like(inputs["input_ids"][:, :1])}
        return inputs

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """The weighted sum of the terms, a scalar."""
        return torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()

    def _encoder_terms(
        self, student_outputs: tuple[Tensor, ...], teacher_outputs: tuple[Tensor, ...], mask: Tensor
    ) -> dict[str, Tensor]:
        terms = {}
        if "hidden_states" in self.weights:
            pairs = list(zip(student_outputs, teacher_outputs, strict=True))[1:]
            errors = [losses.hidden_state_mse(s, t, mask) for s, t in pairs]
            terms["hidden_states"] = torch.stack(errors).mean()
        if self.weights.keys() & {"sentence_cosine", "sentence_similarity"}:
            s, t = (self.pool(outputs[-1], mask) for outputs in (student_outputs, teacher_outputs))
            if "sentence_cosine" in self.weights:
                terms["sentence_cosine"] = losses.sentence_cosine(s, t)
            if "sentence_similarity" in self.weights:
                temperature = self.objective.temperature
                terms["sentence_similarity"] = losses.sentence_similarity(s, t, temperature)
        return terms

    def _attention_terms(
        self, student: list[AttentionCall], teacher: list[AttentionCall], mask: Tensor
    ) -> dict[str, Tensor]:
        terms = {}
        pairs = list(zip(student, teacher, strict=True))
        if "attention_scores" in self.weights:
            assert self.teacher is not None
            errors = []
            for number, (own, other) in zip(self.encoder.calls, pairs, strict=True):
                path = self.encoder.layers[number].attention
                scores = own.scores(get_module(self.student, path))
                target = other.scores(get_module(self.teacher, path))
                errors.append(losses.attention_score_mse(scores, target, mask))
            terms["attention_scores"] = torch.stack(errors).mean()
        if "directions" in self.weights:
            errors = [
                losses.direction_mse(heads, target, mask)
                for own, other in pairs
                for heads, target in zip(own[:3], other[:3], strict=True)
            ]
            terms["directions"] = torch.stack(errors).mean()
        return terms

    def _head_terms(
        self, student_outputs: Any, teacher_outputs: Any, batch: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        terms = {}
        student, teacher = (
            logits_by_head(self.student, outputs) for outputs in (student_outputs, teacher_outputs)
        )
        if "mlm" in self.weights:
            labels = batch["labels"][batch["labels"] >= 0]
            terms["mlm"] = losses.cross_entropy(student["mlm"].squeeze(0), labels)
        if "nsp" in self.weights:
            terms["nsp"] = losses.cross_entropy(student["nsp"], batch["next_sentence_label"])
        if "task" in self.weights and not self.gives_logits:
            embeddings = self.pool(student_outputs.last_hidden_state, batch["attention_mask"])
            first, second = embeddings.chunk(2)
            cosines = F.cosine_similarity(first, second)
            terms["task"] = losses.similarity_ranking(cosines, batch["labels"])
        elif "task" in self.weights:
            terms["task"] = losses.task_loss(student["task"], batch["labels"])
        if "logits" in self.weights:
            soft = []
            for head, logits in student.items():
                everywhere = head == "mlm" and "mlm" not in self.weights
                asked = batch["attention_mask"] if everywhere else None
                soft.append(losses.soft_cross_entropy(logits, teacher[head], asked))
            terms["logits"] = torch.stack(soft).sum()
        return terms
