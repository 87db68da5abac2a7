"""A text's embedding, corrected from what all layers know of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bipft_compress.nn.pooling import mean_pool


class Readout(nn.Module):
    """A low-rank estimator of what binarization takes from the embedding of a text.

    ``correction = U (D m) + b``, where m are the means of several layers' hidden states over the
    text, in which each token has the weight of its word (`fitting.readout.fit_importance`). It is
    added to the last hidden state of every token, so that their mean, which is the text's
    embedding, is corrected by as much, whoever takes it. The products cost what one token
    costs a layer, once a text. Of a model whose embedding is its first token, that token alone is
    corrected, and m has the first token's hidden states beside the means. Starts at zero.

    Args:
        hidden_size: width of the hidden states.
        layers: numbers of the hidden states that it reads; 0 is what the first layer reads.
        rank: at least 1 and at most `hidden_size`.
        vocabulary: number of words.
        first_token: a text's embedding is that of its first token, not the mean of all.
    """

    importance: Tensor

    def __init__(
        self,
        hidden_size: int,
        layers: Sequence[int],
        rank: int,
        vocabulary: int,
        *,
        first_token: bool = False,
    ) -> None:
        super().__init__()
        self.layers, self.first_token = tuple(layers), first_token
        width = len(self.layers) * hidden_size * (1 + first_token)
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, hidden_size)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
        # Two codes a byte, as in the file: c stands for the weight (c + 1) / 16.
        codes = torch.full((-(-vocabulary // 2),), 0xFF, dtype=torch.uint8)
        self.register_buffer("importance", codes)

    @property
    def rank(self) -> int:
        return self.down.out_features

    def weights(self, input_ids: Tensor | None, mask: Tensor) -> Tensor:
        """Weight of each token in the means, (batch, length); 0 at padding.

        Args:
            input_ids: (batch, length); None where embeddings are given instead, which all count
                alike.
            mask: (batch, length), true or 1 at real tokens.
        """
        if input_ids is None:
            return mask.float()
        shift = (4 * (input_ids % 2)).to(torch.uint8)
        codes = (self.importance[input_ids // 2] >> shift) & 15
        return (codes + 1.0) / 16 * mask

    def features(self, hidden_states: Sequence[Tensor], weights: Tensor) -> Tensor:
        """What it reads of each text, m above, (batch, width).

        Args:
            hidden_states: the embeddings' and those of every layer, each (batch, length, hidden).
            weights: of each token, see `weights`.
        """
        read = (hidden_states[number] for number in self.layers)
        return torch.cat([summary(hidden, weights, self.first_token) for hidden in read], -1)

    def correction(self, features: Tensor) -> Tensor:
        """What is added for `features`, (batch, hidden)."""
        correction: Tensor = self.up(self.down(features))
        return correction

    def forward(self, hidden: Tensor, hidden_states: Sequence[Tensor], weights: Tensor) -> Tensor:
        """Correct the last hidden states `hidden`, (batch, length, hidden); else as `features`."""
        correction = self.correction(self.features(hidden_states, weights)).unsqueeze(1)
        if self.first_token:
            return torch.cat([hidden[:, :1] + correction, hidden[:, 1:]], 1)
        return hidden + correction


def summary(hidden: Tensor, weights: Tensor, first_token: bool) -> Tensor:
    """What a readout reads of a layer's hidden states: their mean, and the first token's if asked.

    Args:
        hidden: (batch, length, hidden).
        weights: of each token in the mean, (batch, length).
        first_token: whether the embedding of a text is its first token's.

    Returns:
        (batch, hidden), or (batch, 2 * hidden).
    """
    mean = mean_pool(hidden, weights)
    return torch.cat([mean, hidden[:, 0]], -1) if first_token else mean


def embeddings_of(hidden: Tensor, mask: Tensor, first_token: bool) -> Tensor:
    """The embedding of each text in the last hidden states, (batch, hidden); else as `summary`."""
    return hidden[:, 0] if first_token else mean_pool(hidden, mask)


def evenly_spaced(number: int, layers: int) -> tuple[int, ...]:
    """Numbers of `number` hidden states of a model of `layers` layers, first and last among them.

    All of them where there are no more; the last one alone for 1.
    """
    if number == 1:
        return (layers,)
    if number > layers:
        return tuple(range(layers + 1))
    return tuple(round(i * layers / (number - 1)) for i in range(number))
