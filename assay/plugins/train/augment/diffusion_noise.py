"""The noise of a diffusion at a random step."""

from __future__ import annotations

from assay.plugins._diffusion import Kind, alpha_bars, noise_and_uniform, noised, random_step
from assay.plugins.contract import Augment, Batch, Card, Context, Field


class DiffusionNoise(Augment):
    """Puts each example at a random step of a diffusion: sqrt(alpha_bar) x + sqrt(1 - alpha_bar) noise.

    A classifier trained so can guide a sampler whose diffusion is the same. Unlike the paper's it is not told
    the step: it must see from the example how much noise there is.
    """

    card = Card(
        title="Diffusion Models Beat GANs on Image Synthesis",
        paper="arxiv:2105.05233",
        claim="Trained so, a classifier gives the classes of noised examples a higher likelihood than trained on clean "
        "ones.",
        verdict="reproduced",
        modality=("image", "features"),
    )
    noise_steps: int = Field(1000, ge=2, le=100_000, description="steps of the diffusion, as of the model it guides")
    schedule: Kind = Field("linear", description="variances of the steps, as of the model it guides")

    def augment(self, batch: Batch, ctx: Context) -> Batch:
        """The batch with noised x."""
        noise, uniform = noise_and_uniform(batch.x, ctx.rng)
        step = random_step(uniform, self.noise_steps)
        bars = alpha_bars(self.schedule, self.noise_steps).to(batch.x.device)[step - 1]
        return batch.replace(x=noised(batch.x, noise, bars))
