"""A second view of each example."""

from __future__ import annotations

from assay.plugins.contract import Augment, Batch, Card, Context


class TwoViews(Augment):
    """Adds the field `x2`, a copy of `x`. Augments after it in the list change both, each by its own draws
    (mixing ones, which also change the label, by the same partners and shares)."""

    card = Card(title="A Simple Framework for Contrastive Learning of Visual Representations", paper="arxiv:2002.05709")

    def augment(self, batch: Batch, ctx: Context) -> Batch:
        return batch.replace(x2=batch.x)
