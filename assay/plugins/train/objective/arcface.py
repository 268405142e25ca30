"""ArcFace: an additive angular margin."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from assay.plugins.contract import Batch, Card, Context, Data, Field, Objective


class Centres(nn.Module):
    """Trained centres of the classes, (classes, per class, D)."""

    def __init__(self, classes: int, several: int, dim: int, rng: torch.Generator):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, several, dim, generator=rng) / math.sqrt(dim))


def angular_logits(cosine: Tensor, y: Tensor, margin: float, scale: float) -> Tensor:
    """scale * cos(theta + margin) for the true class, scale * cos(theta) for the others, (N, classes), from
    the cosines. Past theta + margin = pi, where the cosine would rise again, it goes on falling as
    cos(theta) - margin * sin(margin)."""
    sine = (1 - cosine.square()).clamp_min(1e-12).sqrt()
    turned = cosine * math.cos(margin) - sine * math.sin(margin)
    turned = torch.where(cosine > -math.cos(margin), turned, cosine - margin * math.sin(margin))
    true = F.one_hot(y, cosine.shape[1]).bool()
    return scale * torch.where(true, turned, cosine)


class ArcFace(Objective):
    """Cross-entropy of scaled cosines between an embedding and trained class centres, the true class's angle
    made larger by a margin. With several centres a class the nearest counts (sub-center ArcFace)."""

    card = Card(
        title="ArcFace: Additive Angular Margin Loss for Deep Face Recognition",
        paper="arxiv:1801.07698",
        claim="Embeddings of a class lie closer together, against the distance between classes, than with the "
        "softmax of the same cosines without a margin.",
        verdict="reproduced",
        problems=("representation",),
    )
    margin: float = Field(0.5, ge=0, lt=3.14159, description="m, added to the true class's angle, in radians")
    scale: float = Field(64.0, gt=0, le=1000, description="s, on all cosines")
    centres: int = Field(1, ge=1, le=64, description="K, centres of each class")

    def init(self, model: nn.Module, data: Data, ctx: Context) -> nn.Module:
        """Random centres."""
        return Centres(len(data.spec.classes), self.centres, data.spec.n_outputs, ctx.rng)

    def loss(self, model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
        """The loss of each example (N,)."""
        assert isinstance(ctx.own, Centres)
        unit = F.normalize(ctx.forward(model, batch).float(), dim=1)
        centres = F.normalize(ctx.own.weight, dim=2)
        cosine = torch.einsum("nd,ckd->nck", unit, centres).amax(dim=2)
        return F.cross_entropy(angular_logits(cosine, batch.y, self.margin, self.scale), batch.y, reduction="none")
