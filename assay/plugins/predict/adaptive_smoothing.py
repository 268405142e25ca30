"""Adaptive smoothing: the probabilities of an accurate classifier mixed with those of a robust one."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from assay.plugins.contract import BadInput, Batch, Card, Context, Field, Predict


def mixed(standard: Tensor, robust: Tensor, alpha: float) -> Tensor:
    """log((1 - alpha) softmax(standard) + alpha softmax(robust)) of two models' logits (N, classes), alpha in (0, 1].

    Worked in logarithms: a probability that is too small for its type still counts.
    """
    parts = robust.log_softmax(dim=1) + math.log(alpha)
    if alpha == 1:
        return parts
    return torch.logaddexp(standard.log_softmax(dim=1) + math.log1p(-alpha), parts)


class AdaptiveSmoothing(Predict):
    """Mixes the probabilities of the model under study with those of a robust one, with a constant weight.

    `robust` is a further training, as a rule with adversarial training around it. Where its probability of the class
    that it names exceeds every other one by more than (1 - alpha) / alpha (at least 0.5 for alpha), no output of the
    model under study changes the mixture's answer: within a radius in which the robust model keeps this margin, the
    mixture is as robust as that. Left out: the mixing network of the paper, which chooses the weight by both
    models' features of the input, and its training. `cost/size` weighs the model under study alone.
    """

    card = Card(
        title="Improving the Accuracy-Robustness Trade-Off of Classifiers via Adaptive Smoothing",
        paper="arxiv:2301.12554",
        claim="Mixed with a robust network a plain one keeps part of its lead in clean accuracy and most of the robust "
        "one's accuracy under attack: more than answering by either of them, by lot, as often "
        "(averaged logits do about as well).",
        verdict="reproduced",
        problems=("classification",),
    )
    robust: str = Field(
        min_length=1,
        examples=["judge"],
        description="the robust classifier: a name in `trainings`",
        json_schema_extra={"names": "trainings"},
    )
    alpha: float = Field(0.5, gt=0, le=1, description="weight of the robust classifier's probabilities")

    def predict(self, model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
        """Logarithms of the mixed probabilities (N, classes), differentiable through both models. Raises BadInput where
        they answer different numbers of classes."""
        standard, robust = model(batch.x), ctx.models[self.robust](batch.x)
        if standard.shape != robust.shape:
            raise BadInput(
                f"predict.robust: '{self.robust}' answers {robust.shape[1]} classes, the model {standard.shape[1]}"
            )
        return mixed(standard, robust, self.alpha)
