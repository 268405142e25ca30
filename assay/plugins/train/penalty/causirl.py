"""Features whose distribution does not depend on the mixture of domains."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from assay.plugins.contract import Batch, Card, Context, Data, Field, Penalty
from assay.plugins.train.penalty._common import feature_layer, features, layer_shapes

BANDWIDTHS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)


def mmd(a: Tensor, b: Tensor) -> Tensor:
    """Squared maximum mean discrepancy (biased) of samples (n, D) and (m, D), for the sum of the kernels
    exp(-gamma |x - y|^2) over seven gammas."""

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        distances = (x[:, None] - y[None]).square().sum(dim=2)
        return torch.stack([(-gamma * distances).exp() for gamma in BANDWIDTHS]).sum(dim=0).mean()

    return kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)


def coral(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference of the means plus that of the covariances of samples (n, D) and (m, D), each
    of two at least."""
    return (a.mean(dim=0) - b.mean(dim=0)).square().mean() + (torch.cov(a.T) - torch.cov(b.T)).square().mean()


def halves(group: Tensor, rng: torch.Generator) -> Tensor:
    """Which examples (N,) are in the first of two halves: of each domain those before a random place in the
    batch's order, so that the two halves mix the domains in different shares."""
    first = torch.zeros(len(group), dtype=torch.bool)
    for domain in group.unique():
        members = (group == domain).nonzero()[:, 0]
        first[members[: int(torch.randint(len(members), (1,), generator=rng))]] = True
    return first


class CausIRL(Penalty):
    """weight times the distance of the features of two random parts of a batch, which mix its domains
    (`group`) in different shares: features that are caused by the class alone have the same distribution in
    both. Without `group` a batch is one domain.

    0 where a part has less than two examples.
    """

    card = Card(
        title="Invariant Causal Mechanisms through Distribution Matching",
        paper="arxiv:2206.11646",
        claim="In a domain with an offset that was not trained on it is more accurate than training without it "
        "(on digits in styles that were not trained on this did not show).",
        verdict="reproduced",
        coupled=True,
    )
    weight: float = Field(1.0, ge=0, description="gamma, the strength of the penalty")
    distance: Literal["mmd", "coral"] = Field("mmd", description="mmd with Gaussian kernels, or coral: two moments")
    layer: str = Field("", description="the submodule whose output is the features; what the head sees where empty")

    def reads(self, model: nn.Module) -> tuple[str, ...]:
        """The feature layer."""
        return (feature_layer(model, self.layer),)

    def init(self, model: nn.Module, data: Data, ctx: Context) -> None:
        """No state. Raises BadInput where the model has no such layer."""
        layer_shapes(model, data, self.reads(model), "train.penalty: causirl.layer")

    def loss(self, model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
        """The penalty, one number for the batch."""
        found = features(ctx, model, batch, self.layer).float()
        group = batch["group"].cpu() if "group" in batch else torch.zeros(batch.size, dtype=torch.int64)
        first = halves(group, ctx.rng).to(found.device)
        a, b = found[first], found[~first]
        if min(len(a), len(b)) < 2:
            return 0 * found.sum()
        return self.weight * (mmd(a, b) if self.distance == "mmd" else coral(a, b))
