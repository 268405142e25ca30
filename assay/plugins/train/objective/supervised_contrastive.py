"""The supervised contrastive loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from assay.plugins.contract import Batch, Card, Context, Field, Objective


def contrast(unit: Tensor, y: Tensor, temperature: float) -> Tensor:
    """-mean over others of i's class of log softmax over all others of z_i.z_a / temperature, (N,), for
    embeddings of unit length (N, D); 0 where no other is of its class."""
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    logits = (unit @ unit.T / temperature).masked_fill(itself, -torch.inf)
    kin = (y[:, None] == y) & ~itself
    log_probability = torch.where(kin, logits.log_softmax(dim=1), 0.0)
    return -log_probability.sum(dim=1) / kin.sum(dim=1).clamp_min(1)


class SupervisedContrastive(Objective):
    """Draws embeddings of one class together and pushes those of others away, within the batch (the paper's
    L_out). With a second view `x2` both views of every example take part."""

    card = Card(
        title="Supervised Contrastive Learning",
        paper="arxiv:2004.11362",
        problems=("representation",),
        coupled=True,
    )
    temperature: float = Field(0.1, gt=0, le=100, description="of the cosines")

    def loss(self, model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
        """The loss of each example, mean over its views (N,)."""
        views = [ctx.forward(model, batch)]
        if "x2" in batch:
            views.append(ctx.forward(model, batch.replace(x=batch.x2)))
        unit = F.normalize(torch.cat(views).float(), dim=1)
        each = contrast(unit, batch.y.repeat(len(views)), self.temperature)
        return each.reshape(len(views), -1).mean(dim=0)
