"""Learning by gradients through the whole model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from assay.plugins.contract import (
    BadInput,
    Batch,
    Bound,
    Card,
    Context,
    Data,
    Gradients,
    Learner,
    State,
    Terms,
    mean_loss,
)


def parameter_groups(model: nn.Module, own: Mapping[str, nn.Module]) -> list[dict[str, Any]]:
    """The model's trainable parameters as group `model`, then a group for each own module that has any."""
    modules = {"model": model, **{name: own[name] for name in sorted(own)}}
    trainable = {name: [p for p in module.parameters() if p.requires_grad] for name, module in modules.items()}
    return [{"params": params, "name": name, "lr_scale": 1.0} for name, params in trainable.items() if params]


def plain_step(state: State, batch: Batch) -> Tensor:
    """Forward, backward, update; the mean loss, detached."""
    optimizer = state.optimizers["main"]
    optimizer.zero_grad(set_to_none=True)
    with state.terms.autocast():
        loss = mean_loss(state.terms.losses(state.model, batch))
    loss.backward()
    optimizer.step()
    return loss.detach()


def closure_step(state: State, batch: Batch) -> Tensor:
    """The update of an optimizer that makes the gradients itself, and may differentiate them; the mean
    loss, detached."""
    optimizer = state.optimizers["main"]
    graph = "graph" in state.terms.optimizer.card.needs

    def closure() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        if state.terms.around:
            return surrounded_gradients(state, batch)
        with state.terms.autocast():
            loss = mean_loss(state.terms.losses(state.model, batch))
        if not graph:
            loss.backward()
            return loss
        parameters = state.parameters()
        grads = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
        for parameter, gradient in zip(parameters, grads, strict=True):
            parameter.grad = gradient
        return loss

    loss: Tensor = optimizer.step(closure)  # type: ignore[assignment, arg-type]
    optimizer.zero_grad(set_to_none=True)  # gradients that hold a graph hold themselves
    for bound in state.terms.around:
        bound.method.after(state, bound.ctx)
    return loss.detach()


def surrounded_gradients(state: State, batch: Batch) -> Tensor:
    """Puts the gradients that the arounds make of the batch's into `.grad`; the mean loss, detached."""
    result = surrounded(state, state.terms.around, batch)
    for parameter, gradient in zip(state.parameters(), result.grads, strict=True):
        parameter.grad = None if gradient is None else laid_out_like(gradient, parameter)
    return result.losses.detach().mean()


def surrounded_step(state: State, batch: Batch) -> Tensor:
    """The update with the gradients that the arounds make of the batch's; the mean loss, detached."""
    optimizer = state.optimizers["main"]
    optimizer.zero_grad(set_to_none=True)
    loss = surrounded_gradients(state, batch)
    optimizer.step()
    for bound in state.terms.around:
        bound.method.after(state, bound.ctx)
    return loss


def surrounded(state: State, around: Sequence[Bound], batch: Batch, given: Tensor | None = None) -> Gradients:
    """The gradients of `batch` through `around`, outermost first.

    What one around passes on holds for all inside it: weights of examples multiply, and other terms are
    `state.terms` of what is further in.
    """
    if not around:
        return differentiate(state, batch, given)
    bound, *inner = around

    def next(batch: Batch, weights: Tensor | None = None, terms: Terms | None = None, apart: bool = False) -> Gradients:
        inside = state if terms is None else replace(state, terms=terms)
        both = weights if given is None else given if weights is None else given * weights
        if apart and inner:
            further = inner[0].method.method_name()
            raise BadInput(f"train.around: {bound.method.method_name()} must be the last; {further} is further in")
        return differentiate(inside, batch, both, apart) if apart else surrounded(inside, inner, batch, both)

    return bound.method.gradients(next, state, batch, bound.ctx)


def differentiate(state: State, batch: Batch, weights: Tensor | None, apart: bool = False) -> Gradients:
    """Losses of the batch and the gradient of their (weighted) mean, one a trainable parameter; or, `apart`,
    of each (weighted) loss, a row an example."""
    with state.terms.autocast():
        losses = state.terms.losses(state.model, batch)
    if apart:
        if not losses.ndim:
            raise BadInput("train.around: gradients of single examples were asked for, and the losses are one number")
        each = losses if weights is None else losses * weights
        rows = torch.autograd.grad(
            each, state.parameters(), torch.eye(len(each)).to(each), allow_unused=True, is_grads_batched=True
        )
        return Gradients(losses.detach(), list(rows))
    grads = torch.autograd.grad(mean_loss(losses, weights), state.parameters(), allow_unused=True)
    return Gradients(losses.detach(), list(grads))


def laid_out_like(gradient: Tensor, parameter: Tensor) -> Tensor:
    """The gradient with the parameter's strides: on a CPU torch's fused optimizers (2.13) walk both as
    flat memory, so that a transposed gradient would give a wrong update without an error."""
    gradient = gradient.detach()
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


class Backprop(Learner):
    """Gradient descent on the mean of objective plus penalties, by reverse-mode differentiation.

    Without arounds a step is the usual hand-written loop. With arounds it is an onion: the innermost
    call differentiates the losses of the batch it is given, the outermost around's answer is what the
    optimizer updates with.
    """

    card = Card(
        title="Learning representations by back-propagating errors",
        paper="doi:10.1038/323533a0",
        gives=("devices",),
    )

    def init(self, model: nn.Module, terms: Terms, data: Data, ctx: Context) -> State:  # type: ignore[override]
        """The state before the first step: makes the terms' own modules and the optimizer."""
        own: dict[str, nn.Module] = {}
        for bound in [terms.objective, *terms.penalties, *terms.around]:
            module = bound.method.init(model, data, bound.ctx)
            if module is not None:
                own[bound.name] = bound.ctx.own = module.to(ctx.device)
        optimizer = terms.optimizer.build(parameter_groups(model, own))
        return State(model.train(), own, {"main": optimizer}, terms)

    def step(self, state: State, batch: Batch, ctx: Context) -> Mapping[str, Tensor]:
        """One update in training mode; `loss` is the batch's mean loss before it, not synchronised."""
        if not state.model.training:  # walking all modules at each step would cost a small model 2 %
            state.model.train()
        if "closure" in state.terms.optimizer.card.needs:
            return {"loss": closure_step(state, batch)}
        update = surrounded_step if state.terms.around else plain_step
        return {"loss": update(state, batch)}
