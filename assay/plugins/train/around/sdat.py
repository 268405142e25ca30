"""Sharpness-aware minimisation of the task loss alone, beside an adversarial term."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from assay.plugins.contract import Around, Batch, Card, Context, Field, Gradients, NextGradients, State
from assay.plugins.train.around._common import climbed, frozen_statistics


def with_task_at(whole: Tensor | None, task: Tensor | None, smooth: Tensor | None) -> Tensor | None:
    """The gradient of all terms with that of the task exchanged for the smoothed one."""
    if whole is None or task is None or smooth is None:
        return whole
    return whole - task + smooth


class SDAT(Around):
    """Updates with the objective's gradient at the (first-order) worst point within `rho` of the weights, and
    the penalties' gradient at the weights themselves: smoothing an adversarial term would weaken it.

    For domain adversarial training with `penalty: [gradient_reversal]`. Three gradient evaluations a step;
    running statistics of normalisation layers are updated by the first alone. Each draws dropout's masks anew, so
    that with dropout the task's gradient within the whole and the one that is taken from it use different masks and
    do not cancel: the step is noisier. The authors' code takes both gradients at the worst point, which it finds by
    the objective; this is the paper's equation.
    """

    card = Card(
        title="A Closer Look at Smoothness in Domain Adversarial Training",
        paper="arxiv:2206.08213",
        claim="On the target domain it is more accurate than plain domain adversarial training (that smoothing "
        "the adversarial loss too is worse did not show).",
        verdict="reproduced",
    )
    rho: float = Field(0.05, gt=0, description="radius of the ball, in the Euclidean norm over all weights")

    def gradients(self, next: NextGradients, state: State, batch: Batch, ctx: Context) -> Gradients:
        objective = replace(state.terms, penalties=[])
        whole = next(batch)
        with frozen_statistics(state.model):
            task = next(batch, terms=objective)
            with climbed(state.parameters(), task.grads, self.rho):
                smooth = next(batch, terms=objective)
        return Gradients(whole.losses, list(map(with_task_at, whole.grads, task.grads, smooth.grads)))
