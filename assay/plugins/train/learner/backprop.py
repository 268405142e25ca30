"""Learning by gradients through the whole model."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from assay.plugins.contract import Batch, Card, Context, Data, Learner, State, Terms, mean_loss
from assay.plugins.train.learner._common import differentiate, first_state, update


def plain_step(state: State, batch: Batch) -> Tensor:
    """Forward, backward, update; the mean loss, detached."""
    optimizer = state.optimizers["main"]
    optimizer.zero_grad(set_to_none=True)
    with state.terms.autocast():
        loss = mean_loss(state.terms.losses(state.model, batch))
    loss.backward()
    optimizer.step()
    return loss.detach()


def graph_step(state: State, batch: Batch) -> Tensor:
    """The update of an optimizer that differentiates its gradients; the mean loss, detached."""
    optimizer = state.optimizers["main"]

    def closure() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with state.terms.autocast():
            loss = mean_loss(state.terms.losses(state.model, batch))
        loss.backward(create_graph=True)
        return loss

    loss: Tensor = optimizer.step(closure)  # type: ignore[assignment, arg-type]
    optimizer.zero_grad(set_to_none=True)  # gradients that hold a graph hold themselves
    return loss.detach()


def step(state: State, batch: Batch) -> Tensor:
    """The update that the optimizer and the arounds ask for; the mean loss, detached."""
    needs = state.terms.optimizer.card.needs
    if not state.terms.around and not needs:
        return plain_step(state, batch)
    if not state.terms.around and "graph" in needs:
        return graph_step(state, batch)
    return update(state, batch, differentiate)


class Backprop(Learner):
    """Gradient descent on the mean of objective plus penalties, by reverse-mode differentiation.

    Without arounds a step is the usual hand-written loop. With arounds it is an onion: the innermost
    call differentiates the losses of the batch it is given, the outermost around's answer is what the
    optimizer updates with.
    """

    card = Card(
        title="Learning representations by back-propagating errors",
        paper="doi:10.1038/323533a0",
    )

    def init(self, model: nn.Module, terms: Terms, data: Data, ctx: Context) -> State:  # type: ignore[override]
        """The state before the first step: makes the terms' own modules and the optimizer."""
        return first_state(model, terms, data, ctx)

    def step(self, state: State, batch: Batch, ctx: Context) -> Mapping[str, Tensor]:
        """One update in training mode; `loss` is the batch's mean loss before it, not synchronised."""
        if not state.model.training:  # walking all modules at each step would cost a small model 2 %
            state.model.train()
        return {"loss": step(state, batch)}
