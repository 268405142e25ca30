"""mixup."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from assay.plugins.contract import Augment, Batch, Card, Context, Field


def symmetric_beta(alpha: float, rng: torch.Generator) -> float:
    """A draw from Beta(alpha, alpha), as a / (a + b) of two Gamma(alpha) draws.

    Worked in logarithms, with Gamma(alpha) = Gamma(alpha + 1) U^(1 / alpha): for a small alpha both
    draws underflow to zero.
    """
    shape = torch.full((2,), alpha + 1.0, dtype=torch.float64)
    uniform = 1.0 - torch.rand(2, dtype=torch.float64, generator=rng)
    log_gamma = torch._standard_gamma(shape, generator=rng).log() + uniform.log() / alpha
    return float(torch.sigmoid(log_gamma[0] - log_gamma[1]))


def mix(values: Tensor, partner: Tensor, share: float) -> Tensor:
    """share * values[i] + (1 - share) * values[partner[i]]."""
    return share * values + (1.0 - share) * values[partner]


class Mixup(Augment):
    """Train on convex combinations of pairs of examples and their labels.

    One weight a batch, as in the authors' code. Class labels become probabilities (N, classes); values
    (regression, or labels mixed before) are mixed as they are; a second view `x2` by the same weight and
    partners. Other fields stay those of the first
    example of each pair.
    """

    card = Card(
        title="mixup: Beyond Empirical Risk Minimization",
        paper="arxiv:1710.09412",
        claim="Predictions between two training examples become closer to linear.",
        verdict="reproduced",
        problems=("classification", "regression"),
        coupled=True,
    )
    alpha: float = Field(0.2, gt=0, le=100, description="Beta(alpha, alpha) of the mixing weight")

    def augment(self, batch: Batch, ctx: Context) -> Batch:
        share = symmetric_beta(self.alpha, ctx.rng)
        partner = torch.randperm(batch.size, generator=ctx.rng).to(batch.x.device)
        y = batch.y
        if not y.is_floating_point():
            y = F.one_hot(y, ctx.spec.n_outputs).to(batch.x.dtype)
        views = {name: mix(batch[name], partner, share) for name in ("x", "x2") if name in batch}
        return batch.replace(**views, y=mix(y, partner, share))
