"""Distillation terms: each a pure function of student and teacher tensors, returning a scalar.

`mask` is (batch, length), true or 1 at real tokens; padding never counts. Where several processes
train together, each gives its rows of the batch and gets the loss of the whole.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from bipft_compress.collectives import all_rows, mean, total


def hidden_state_mse(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Squared error of one layer's hidden states over the teacher's variance.

    BiPFT (Xing et al. 2024) distils the plain MSE; dividing by the variance gives layers of
    different scale the same say. 0 is perfect, 1 is as bad as the teacher's mean.

    Args:
        student: (batch, length, hidden).
        teacher: same shape.
        mask: see the module.
    """
    keep = mask.bool()
    s, t = student[keep], teacher[keep]
    variance = mean((t - mean(t, rows=True)).square()).clamp_min(1e-6)
    return mean(F.mse_loss(s, t, reduction="none")) / variance


def soft_cross_entropy(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Cross-entropy of the student's logits with the teacher's distribution (Hinton et al. 2015).

    A single logit is a regression's number, no distribution: its squared error counts.

    Args:
        student: logits, (..., classes).
        teacher: same shape.
        mask: (...), positions that count; all where None.
    """
    if student.shape[-1] == 1:
        loss = (student - teacher).square().squeeze(-1)
    else:
        loss = -(teacher.softmax(-1) * student.log_softmax(-1)).sum(-1)
    return mean(loss if mask is None else loss[mask.bool()])


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits (count, classes) with integers (count,)."""
    return mean(F.cross_entropy(logits, labels, reduction="none"))


def task_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with classes, or mean squared error with numbers.

    Args:
        logits: (batch, classes), or (batch, 1) for a regression.
        labels: (batch,), integers for classes, floating-point numbers for a regression.
    """
    if labels.is_floating_point():
        return mean(F.mse_loss(logits.squeeze(-1), labels, reduction="none"))
    return cross_entropy(logits, labels)


def similarity_ranking(cosines: Tensor, labels: Tensor, temperature: float = 0.05) -> Tensor:
    """CoSENT (Su 2022): pairs that are more alike shall have the larger cosine.

    ``log(1 + sum exp((cosine_j - cosine_i) / temperature))`` over all i, j with
    ``label_i > label_j``: as Spearman's correlation, it is blind to the labels' scale.

    Args:
        cosines: of the embeddings of two texts, (batch,).
        labels: how alike they are, (batch,).
        temperature: of the cosines.
    """
    cosines, labels = all_rows(cosines), all_rows(labels)
    above = labels[:, None] > labels
    distances = ((cosines - cosines[:, None]) / temperature)[above]
    return torch.cat([distances.new_zeros(1), distances]).logsumexp(0)


def attention_score_mse(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Squared error of attention scores before softmax over the teacher's variance.

    Both are centred over the keys first: softmax ignores what a row has in common.

    Args:
        student: (batch, heads, queries, keys).
        teacher: same shape.
        mask: see the module; pairs of real tokens count.
    """
    keys = mask.to(student.dtype)[:, None, None, :]
    count = keys.sum(-1, keepdim=True).clamp_min(1)

    def centred(scores: Tensor) -> Tensor:
        return (scores - (scores * keys).sum(-1, keepdim=True) / count) * keys

    queries = mask.to(student.dtype)[:, None, :, None]
    target = centred(teacher)
    error = total(((centred(student) - target).square() * queries).sum())
    return error / total((target.square() * queries).sum()).clamp_min(1e-6)


def direction_mse(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """BiBERT's direction matching: MSE of normalised similarity matrices (Qin et al. 2022, eq. 13).

    Args:
        student: queries, keys or values, (batch, heads, length, head_dim).
        teacher: same shape.
        mask: see the module; pairs of real tokens count.
    """
    keep = mask.to(student.dtype)[:, None, :, None]

    def direction(x: Tensor) -> Tensor:
        similarity = (x * keep) @ (x * keep).transpose(-1, -2)
        norm = similarity.flatten(-2).norm(dim=-1).clamp_min(1e-6)
        return similarity.div(norm[..., None, None])

    pairs = keep * keep.transpose(-1, -2)
    count = total(pairs.sum()).clamp_min(1) * student.shape[1]
    # Normalised matrices have entries of order 1 / length: the mean length puts them back to 1.
    length_squared = mean(mask.sum(1).float().square())
    error = (direction(student) - direction(teacher)).square() * pairs
    return total(error.sum()) / count * length_squared


def sentence_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """One minus the mean cosine of sentence embeddings, both (batch, hidden)."""
    return 1 - mean(F.cosine_similarity(student, teacher, dim=-1))


def sentence_similarity(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL divergence between in-batch similarity distributions (Fang et al. 2021, in the batch).

    Every sentence is compared with all others of its batch; the softmax of the cosines says which
    it resembles, to the teacher and to the student.

    Args:
        student: sentence embeddings, (batch, hidden).
        teacher: same shape.
        temperature: of both softmaxes; lower looks at the nearest neighbours only.

    Returns:
        The mean over sentences; 0 for a batch of one.
    """
    student, teacher = all_rows(student), all_rows(teacher)
    if len(student) < 2:
        return student.sum() * 0.0

    def logits(x: Tensor) -> Tensor:
        unit = F.normalize(x, dim=-1)
        itself = torch.eye(len(x), dtype=torch.bool, device=x.device)
        similarity = unit @ unit.T / temperature
        # The product's own type: under autocast it is a narrower one than the input's.
        return similarity.masked_fill(itself, torch.finfo(similarity.dtype).min)

    log_s, log_t = logits(student).log_softmax(-1), logits(teacher).log_softmax(-1)
    return F.kl_div(log_s, log_t, log_target=True, reduction="batchmean")
