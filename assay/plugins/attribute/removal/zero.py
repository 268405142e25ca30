"""Removal by black."""

from __future__ import annotations

from torch import Tensor

from assay.plugins.attribute.removal._common import compose, zero_fill
from assay.plugins.contract import Batch, Card, Context, Removal


class Zero(Removal):
    """Removed pixels become pixel value 0 (in the units of the model), features 0."""

    card = Card(
        title="RISE: Randomized Input Sampling for Explanation of Black-box Models",
        paper="arxiv:1806.07421",
    )

    def remove(self, batch: Batch, keep: Tensor, ctx: Context) -> Tensor:
        """Inputs, shaped as `batch.x`, of which `keep` (N, H, W; 1 keeps) is left."""
        return compose(batch.x, keep, zero_fill(batch.x, ctx.spec))
