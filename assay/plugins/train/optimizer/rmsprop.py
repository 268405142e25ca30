"""RMSprop."""

from __future__ import annotations

from typing import Any

import torch

from assay.plugins.contract import Card, Field, Optimizer


class RMSprop(Optimizer):
    """Each gradient divided by the root of a running average of its square:
    v <- alpha v + (1 - alpha) g^2; w <- w - lr g / (sqrt(v) + eps)."""

    card = Card(
        title="Neural Networks for Machine Learning, lecture 6e: rmsprop, divide the gradient by a running average of "
        "its recent magnitude",
        paper="Tieleman, Hinton, Coursera 2012",
        library="torch.optim.RMSprop",
    )
    lr: float = Field(1e-3, gt=0, description="learning rate, before the schedule's factor")
    alpha: float = Field(0.99, ge=0, lt=1, description="decay of the squared gradients' average")
    eps: float = Field(1e-8, gt=0, description="added to the root of the average")
    momentum: float = Field(0.0, ge=0, lt=1, description="decay of the velocity")
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty added to the gradient")

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(
            groups,
            lr=self.lr,
            alpha=self.alpha,
            eps=self.eps,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )
