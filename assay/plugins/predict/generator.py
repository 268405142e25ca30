"""Samples of a generator in one pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from assay.plugins.contract import Batch, Card, Context, NotAuditable, Predict, takes_time


class Generator(Predict):
    """Draws of a model that turns noise into an example: its pass of standard normal noise in the shape of an
    example, each example's own by its number."""

    card = Card(
        title="Generative Adversarial Networks",
        paper="arxiv:1406.2661",
        problems=("generation",),
        drops=("grad",),
    )

    def predict(self, model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
        """Draws (N, *shape). Raises NotAuditable where the network is one of a time: one pass draws nothing."""
        if takes_time(model):
            raise NotAuditable("its network is one of a time: one pass draws nothing")
        with torch.no_grad():
            found: Tensor = model(ctx.normal(batch.index, ctx.spec.shape))
        return found
