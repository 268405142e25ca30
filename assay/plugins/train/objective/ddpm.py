"""Predicting the noise in a noised example."""

from __future__ import annotations

from torch import Tensor, nn

from assay.plugins._diffusion import Kind, alpha_bars, noise_and_uniform, noised, random_step, require_time
from assay.plugins.contract import Batch, Card, Context, Data, Field, Objective


class DDPM(Objective):
    """The squared error of the network's guess of the noise in sqrt(alpha_bar) x + sqrt(1 - alpha_bar) noise at a
    random step, averaged over the values (the simple loss, equation 14, which sums them).

    Data of unit variance suit the schedules: normalise images first.
    """

    card = Card(
        title="Denoising Diffusion Probabilistic Models",
        paper="arxiv:2006.11239",
        also=("arxiv:2102.09672",),
        problems=("generation",),
    )
    noise_steps: int = Field(1000, ge=2, le=100_000, description="steps of the diffusion")
    schedule: Kind = Field("linear", description="variances of the steps; cosine destroys small images more slowly")

    def init(self, model: nn.Module, data: Data, ctx: Context) -> None:
        """No state. Raises BadInput where the network takes no time."""
        require_time(model, self.method_name())

    def loss(self, model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
        """(N,)."""
        noise, uniform = noise_and_uniform(batch.x, ctx.rng)
        step = random_step(uniform, self.noise_steps)
        bars = alpha_bars(self.schedule, self.noise_steps).to(batch.x.device)[step - 1]
        guess: Tensor = model(noised(batch.x, noise, bars), step.to(batch.x) / self.noise_steps)
        return (guess - noise).square().flatten(1).mean(dim=1)
