"""Gradients orthogonal to the weights."""

from __future__ import annotations

import torch
from torch import Tensor

from assay.plugins.contract import Around, Batch, Card, Context, Gradients, NextGradients, State


def orthogonal(gradient: Tensor, weights: Tensor) -> Tensor:
    """The part of a gradient that is orthogonal to a tensor of weights, at the length of the whole.

    Zero where nothing but rounding errors is left of it. A single weight has no orthogonal direction: its
    gradient stays as it is.
    """
    if weights.numel() == 1:
        return gradient
    along = (weights * gradient).sum() / weights.square().sum().clamp_min(torch.finfo(weights.dtype).tiny)
    rest = gradient - along * weights
    length, whole = rest.norm(), gradient.norm()
    kept = length > 10 * torch.finfo(rest.dtype).eps * whole
    return torch.where(kept, rest * (whole / length.clamp_min(torch.finfo(rest.dtype).tiny)), 0.0)


class OrthoGrad(Around):
    """Takes from each parameter's gradient its component along the weights and rescales what is left to the
    gradient's length, as the authors' code does: no step may gain by only scaling the weights up."""

    card = Card(
        title="Grokking at the Edge of Numerical Stability",
        paper="arxiv:2501.04697",
        claim="Without weight decay a network generalises on a modular addition as soon as it fits it, where the "
        "plain gradient with softmax cross-entropy fits it alone (with one hidden layer it did not even fit).",
        verdict="reproduced",
    )

    def gradients(self, next: NextGradients, state: State, batch: Batch, ctx: Context) -> Gradients:
        found = next(batch)
        pairs = zip(found.grads, state.parameters(), strict=True)
        return Gradients(found.losses, [None if g is None else orthogonal(g, p.detach()) for g, p in pairs])
