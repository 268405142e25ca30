"""A token for each place of a sequence, such as the next one."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from assay.plugins.contract import BadData, Batch, Card, Data, DataSpec, Problem

UNKNOWN = -1
"""The label of a place that does not count."""


class Sequence(Problem):
    """A token for each place: `x` and `y` are int64 (N, T), a prediction logits (N, T, tokens). Where `y` is the
    next token this is language modelling; a label of -1 does not count.

    `spec.classes` are the tokens that can be predicted, `spec.high` is the largest token of `x`. The error is
    the share of wrong tokens.
    """

    card = Card(title="Sequence prediction")
    fields: ClassVar[tuple[str, ...]] = ("x", "y")
    objective: ClassVar[str] = "cross_entropy"
    headline: ClassVar[str] = "accuracy/next_token"

    def check(self, data: Data) -> None:
        """Raises BadData: inputs or labels missing, no whole numbers, of different shapes or out of range."""
        classes = len(data.spec.classes)
        for name, split in data.splits.items():
            if "y" not in split.fields:
                raise BadData(f"split '{name}' has no tokens to predict: field `y` is missing")
            x, y = (np.asarray(split.fields[field]) for field in ("x", "y"))
            if x.dtype != np.int64 or y.dtype != np.int64 or x.ndim != 2 or x.shape != y.shape:
                raise BadData(
                    f"split '{name}': x is {x.dtype} {x.shape}, y {y.dtype} {y.shape}; both must be int64 (N, T)"
                )
            if x.min() < 0 or x.max() > data.spec.high[0]:
                raise BadData(f"split '{name}': a token of x is out of 0..{data.spec.high[0]:.0f}")
            if y.min() < UNKNOWN or y.max() >= classes:
                raise BadData(f"split '{name}': a token of y is out of 0..{classes - 1} (or -1, which does not count)")
            if (y == UNKNOWN).all(axis=1).any():
                raise BadData(f"split '{name}': an example has no token that counts")

    def output(self, spec: DataSpec) -> tuple[int, ...]:
        """Logits of each token at each place."""
        return (*spec.shape, spec.n_outputs)

    def target(self, prediction: Tensor) -> Tensor:
        """The predicted token of each place (N, T)."""
        return prediction.argmax(dim=2)

    def score(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The target tokens' logits, mean over places."""
        return prediction.gather(2, target[..., None])[..., 0].mean(dim=1)

    def same(self, a: Tensor, b: Tensor) -> Tensor:
        """Whether at least half of the tokens are the same."""
        return (a == b).float().mean(dim=1) >= 0.5

    def error(self, prediction: Tensor, batch: Batch) -> Tensor:
        """The share of wrong tokens among those that count."""
        counts = batch.y != UNKNOWN
        wrong = (prediction.argmax(dim=2) != batch.y) & counts
        return wrong.sum(dim=1).float() / counts.sum(dim=1)

    def chance(self, data: Data) -> float:
        """Error of naming at each place the test split's most frequent token there."""
        y = torch.from_numpy(np.array(data.test.fields["y"]))
        counts = torch.stack([(y == token).sum(dim=0) for token in range(len(data.spec.classes))])
        return 1.0 - float(counts.max(dim=0).values.sum() / counts.sum())
