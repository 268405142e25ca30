"""Telling unfamiliar data by the maximum softmax probability."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from assay.plugins.contract import Card, Context, Evaluator, Field, Result, Subject
from assay.plugins.evaluate._common import predictions
from assay.plugins.evaluate.ood._common import DETECTION, detection, further_split


def unsureness(logits: Tensor) -> np.ndarray:
    """1 minus the maximum softmax probability (N,), summed from the other classes' probabilities so that
    very confident predictions (probability 1 after rounding) still differ."""
    return logits.softmax(dim=1).sort(dim=1).values[:, :-1].sum(dim=1).numpy()


class MSP(Evaluator):
    """How well 1 minus the maximum softmax probability tells a further data set from the test split.

    Arrays: `known` and `further`, the scores of both.
    """

    card = Card(
        title="A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural Networks",
        paper="arxiv:1610.02136",
        claim="Misclassified and out-of-distribution examples have lower maximum softmax probabilities than "
        "correctly classified ones: both are detected far better than by chance.",
        verdict="reproduced",
        problems=("classification", "graph"),
    )
    ood: str = Field(
        "ood", min_length=1, description="name of the further data set", json_schema_extra={"names": "datasets"}
    )

    def numbers(self) -> tuple[str, ...]:
        return DETECTION

    def evaluate(self, subject: Subject, ctx: Context) -> Result:
        further = further_split(subject, self.ood)
        known = unsureness(predictions(subject, subject.data["main"].test, ctx))
        return detection(known, unsureness(predictions(subject, further, ctx)), "1 minus maximum softmax probability")
