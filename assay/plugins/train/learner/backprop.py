"""Learning by gradients through the whole model."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from assay.plugins.contract import Batch, Card, Context, Data, Learner, State, Terms
from assay.plugins.train.learner._common import descend, first_state


class Backprop(Learner):
    """Gradient descent on the mean of objective plus penalties, by reverse-mode differentiation.

    Without arounds a step is the usual hand-written loop. With arounds it is an onion: the innermost
    call differentiates the losses of the batch it is given, the outermost around's answer is what the
    optimizer updates with.
    """

    card = Card(
        title="Learning representations by back-propagating errors",
        paper="doi:10.1038/323533a0",
        gives=("closure", "graph", "apart", "activations"),
    )

    def init(self, model: nn.Module, terms: Terms, data: Data, ctx: Context) -> State:  # type: ignore[override]
        """The state before the first step: makes the terms' own modules and the optimizer."""
        return first_state(model, terms, data, ctx)

    def step(self, state: State, batch: Batch, ctx: Context) -> Mapping[str, Tensor]:
        """One update in training mode; `loss` is the batch's mean loss before it, not synchronised."""
        if not state.model.training:  # walking all modules at each step would cost a small model 2 %
            state.model.train()
        return {"loss": descend(state, batch)}
