"""Sharpness-aware minimisation."""

from __future__ import annotations

from assay.plugins.contract import Around, Batch, Card, Context, Field, Gradients, NextGradients, State
from assay.plugins.train.around._common import climbed, frozen_statistics


class SAM(Around):
    """Updates with the gradient at the (first-order) worst point within `rho` of the weights.

    Two gradient evaluations a step. Running statistics of normalisation layers are updated by the first
    pass, at the weights themselves, and not by the second; the loss reported is the first pass's.
    """

    card = Card(
        title="Sharpness-Aware Minimization for Efficiently Improving Generalization",
        paper="arxiv:2010.01412",
        claim="It finds flatter minima than SGD (the largest curvature is smaller), of no higher loss.",
        verdict="reproduced",
    )
    rho: float = Field(0.05, gt=0, description="radius of the ball, in the Euclidean norm over all weights")

    def gradients(self, next: NextGradients, state: State, batch: Batch, ctx: Context) -> Gradients:
        here = next(batch)
        with climbed(state.parameters(), here.grads, self.rho), frozen_statistics(state.model):
            there = next(batch)
        return Gradients(here.losses, there.grads)
