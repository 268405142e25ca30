"""What learners with a generator and a critic share: the losses of both, and the noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from assay.plugins.contract import Batch, Card, Context, Objective


def wasserstein(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """mean f(real) - mean f(fake): for the best critic of Lipschitz constant K, K times the distance."""
    found: Tensor = critic(real).mean() - critic(fake).mean()
    return found


class Deceive(Objective):
    """The generator's loss: -f(G(z)) of each draw, with the noise z in place of the batch's inputs."""

    card = Card(title="The loss of a Wasserstein GAN's generator")

    def loss(self, model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
        """(N,)."""
        found: Tensor = model.get_submodule("critic")(ctx.forward(model, batch))
        return -found


def noise_like(x: Tensor, ctx: Context) -> Tensor:
    """Standard normal noise in the shape of the batch."""
    return torch.randn(x.shape, generator=ctx.rng).to(x)
