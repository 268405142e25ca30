"""Residual denoising diffusion: what is wrong with an image, learned from every state on its way."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from assay.plugins._diffusion import spread
from assay.plugins.contract import Batch, Card, Context, Data, Field, Objective
from assay.plugins.train.objective._residual_diffusion import STEPS, demand_time, deviation, parts, pixel, share


def state_at(clean: Tensor, degraded: Tensor, noise: Tensor, t: Tensor, last: float) -> Tensor:
    """I_t = I_0 + a_t (I_in - I_0) + b_t noise, for times t (N,)."""
    return clean + spread(share(t), clean) * (degraded - clean) + spread(deviation(t, last), clean) * noise


def distance(a: Tensor, b: Tensor, norm: str) -> Tensor:
    """The mean absolute or squared difference of each example, (N,)."""
    apart = (a - b).flatten(1)
    return apart.abs().mean(dim=1) if norm == "l1" else apart.square().mean(dim=1)


class RDDM(Objective):
    """The network's error in the residual I_in - I_0, and in the noise where it predicts that too, at a random
    time of the diffusion. `predict/rddm` restores with it; `train/model/rddm_unet` is a network for it.

    The network is called as model(x, state=I_t, t=t / T). The paper's SM-N, which predicts the noise alone, is left
    out: at the last step it says nothing of the residual.
    """

    card = Card(
        title="Residual Denoising Diffusion Models",
        paper="arxiv:2308.13712",
        claim="A plain U-Net trained with the l1 loss alone comes close to a network made for restoration, DnCNN, on "
        "noise, where it is 0.0 to 0.5 dB behind; on blur it is behind by 0.7 to 2.9 dB.",
        verdict="reproduced",
        problems=("restoration",),
        modality=("image",),
    )
    noise: float = Field(0.05, gt=0, description="standard deviation of the noise at the end, in pixel units; "
                         "as predict.rddm.noise")  # fmt: skip
    norm: Literal["l1", "l2"] = Field("l1", description="absolute or squared error")

    def init(self, model: nn.Module, data: Data, ctx: Context) -> None:
        """No state of its own. Raises BadInput where the model takes no state and time."""
        demand_time(model, "train.objective")

    def loss(self, model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
        """The loss of each example, (N,): with the noise predicted too the sum of both errors."""
        x, clean, scale = batch.x, batch.y, pixel(ctx.spec, batch.x)
        draw = int(torch.randint(2**60, (1,), generator=ctx.rng))  # an example's draws are then its own
        noise = replace(ctx, seed=draw).normal(batch.index, x.shape[1:])
        t = 1 + (STEPS * replace(ctx, seed=draw + 1).uniform(batch.index, ())).floor()
        state = state_at(clean, x, scale * noise, t, self.noise)
        residual, predicted = parts(model(x, state=state, t=t / STEPS), x)
        found = distance(residual / scale, (x - clean) / scale, self.norm)
        return found if predicted is None else found + distance(predicted, noise, self.norm)
