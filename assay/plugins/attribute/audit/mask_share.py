"""How much of the attribution lies on the ground truth."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from assay.plugins.contract import Attribution, Audit, Card, Context, NotAuditable, Number, Result, Subject


def mask_share(values: Tensor, mask: Tensor) -> Tensor:
    """Share of each map's |values| (N, H, W) that lies where `mask` (N, H, W) is 1; (N,) in [0, 1], NaN
    where a map is zero everywhere."""
    size = values.abs().double()
    return (size * (mask > 0)).flatten(1).sum(1) / size.flatten(1).sum(1)


class MaskShare(Audit):
    """The share of |attribution| inside the data's ground-truth mask (relevance mass accuracy)."""

    card = Card(
        title="CLEVR-XAI: A Benchmark Dataset for the Ground Truth Evaluation of Neural Network Explanations",
        paper="arxiv:2003.07258",
        also=("arxiv:2102.12781",),
        claim="Where the truth is known, the measure puts attributions of the trained network above random maps.",
        verdict="reproduced",
        needs=("mask",),
        modality=("image", "features"),
    )

    def numbers(self) -> tuple[str, ...]:
        return ("share", "area")

    def audit(self, subject: Subject, attribution: Attribution, ctx: Context) -> Result:
        """`share`, one value an image. Raises NotAuditable where there is no mask of the maps' shape, or
        every map is zero."""
        images = subject.images
        if images is None or "mask" not in images:
            raise NotAuditable("the data have no ground-truth mask")
        values, mask = attribution.values.detach().cpu(), images["mask"].cpu()
        if attribution.over != "input" or values.shape != mask.shape:
            raise NotAuditable(f"maps {tuple(values.shape)} over {attribution.over}, masks {tuple(mask.shape)}")
        each = mask_share(values, mask).numpy()
        if not np.isfinite(each).any():
            raise NotAuditable("every map is zero everywhere or not finite")
        area = (mask > 0).flatten(1).double().mean(1).numpy()
        return Result(
            {
                "share": Number(
                    float(np.nanmean(each)),
                    "share",
                    1,
                    "Share of an example's absolute attribution that lies inside its true mask, mean over examples.",
                    each,
                ),
                "area": Number(
                    float(area.mean()),
                    "share",
                    0,
                    "Share of an image's pixels that lie inside its true mask, mean over images: "
                    "what an even map scores.",
                    area,
                ),
            }
        )
