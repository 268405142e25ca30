"""Deletion and insertion."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from assay.plugins.attribute._maps import fastest_layout, map_shape, rows_per_pass
from assay.plugins.attribute.removal._common import compose, fill_of
from assay.plugins.contract import (
    Attribution,
    Audit,
    Batch,
    Card,
    Context,
    Field,
    NotAuditable,
    Number,
    Result,
    Subject,
)


def places(values: Tensor, luck: Tensor) -> Tensor:
    """Place of each of (N, D) values in its row's order from the largest (0) down; ties go by `luck`."""
    shuffled = luck.argsort(1)
    order = shuffled.gather(1, values.gather(1, shuffled).argsort(dim=1, descending=True, stable=True))
    return torch.empty_like(order).scatter_(1, order, torch.arange(values.shape[1]).expand_as(order))


@torch.no_grad()
def curves(
    model: nn.Module, batch: Batch, place: Tensor, start: Tensor, end: Tensor, steps: int, ctx: Context
) -> Tensor:
    """Probability of each example's target while pixels of `start` turn into those of `end`, the most
    attributed first: (N, steps + 1), from none to all pixels. `place` is (N, D)."""
    shape = (-1, *map_shape(batch.x))
    pixels, layout = place.shape[1], fastest_layout(model, batch.x, ctx)
    found = torch.empty(batch.size * (steps + 1))
    for part in torch.arange(batch.size * (steps + 1)).split(rows_per_pass(batch.x, ctx)):
        example, step = part // (steps + 1), part % (steps + 1)
        turned = place[example] < (step * pixels / steps).round()[:, None]
        example = example.to(batch.x.device)
        x = compose(end[example], turned.to(batch.x.device).view(shape), start[example])
        probability = model(x.to(memory_format=layout)).float().softmax(1)
        found[part] = probability.gather(1, batch["target"][example][:, None])[:, 0].cpu()
    return found.view(batch.size, steps + 1)


class Deletion(Audit):
    """Does the prediction go when the most attributed pixels go, and come when they come?

    `deletion`: area under the target's probability while pixels are removed from the most attributed
    down. `insertion`: the same while they appear on a blurred image. Pixels are ordered by signed value,
    equal values by lot.
    """

    card = Card(
        title="RISE: Randomized Input Sampling for Explanation of Black-box Models",
        paper="arxiv:1806.07421",
        claim="Maps that know the model have a lower deletion and a higher insertion area than random maps.",
        verdict="reproduced",
        problems=("classification",),
    )
    steps: int = Field(16, ge=1, le=1024, description="steps from the whole image to none of it")
    removal: Literal["zero", "mean", "blur"] = Field("zero", description="what removed pixels become in deletion")
    canvas: Literal["zero", "mean", "blur"] = Field("blur", description="what pixels not yet inserted are in insertion")
    sigma: float = Field(5.0, gt=0, le=100, description="standard deviation of `blur`, in pixels")

    def numbers(self) -> tuple[str, ...]:
        return ("deletion", "insertion")

    def audit(self, subject: Subject, attribution: Attribution, ctx: Context) -> Result:
        """Two areas in [0, 1] and the mean curves (steps + 1,). Raises NotAuditable where the maps do not
        cover the inputs."""
        images = subject.images
        if images is None or "target" not in images:
            raise NotAuditable("there are no audited images with a target")
        if attribution.over != "input" or attribution.values.shape != (images.size, *map_shape(images.x)):
            raise NotAuditable(
                f"maps {tuple(attribution.values.shape)} over {attribution.over} do not cover the inputs"
            )
        values = attribution.values.detach().cpu().flatten(1)
        if not values.isfinite().all():
            raise NotAuditable("some maps are not finite")
        luck = ctx.uniform(images.index, values.shape[1:]).cpu()
        batch = images.to(ctx.device)
        x, place = batch.x, places(values, luck)
        removed = fill_of(self.removal, x, ctx.spec, self.sigma).expand_as(x)
        canvas = fill_of(self.canvas, x, ctx.spec, self.sigma).expand_as(x)
        deleted = curves(subject.answering, batch, place, x, removed, self.steps, ctx).numpy()
        inserted = curves(subject.answering, batch, place, canvas, x, self.steps, ctx).numpy()
        areas = [np.trapezoid(curve, dx=1 / self.steps, axis=1) for curve in (deleted, inserted)]
        return Result(
            {
                "deletion": Number(
                    float(areas[0].mean()),
                    "area",
                    -1,
                    "Area under the target class's probability as pixels are removed from the most attributed to the "
                    "least (0 to 1), mean over images.",
                    areas[0],
                ),
                "insertion": Number(
                    float(areas[1].mean()),
                    "area",
                    1,
                    "Area under the target class's probability as pixels are inserted from the most attributed to the "
                    "least (0 to 1), mean over images.",
                    areas[1],
                ),
            },
            {
                "fraction": np.arange(self.steps + 1) / self.steps,
                "deletion": deleted.mean(0),
                "insertion": inserted.mean(0),
            },
        )
