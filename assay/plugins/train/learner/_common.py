"""What the learners share: the terms' own modules, the onion of arounds, and the layers of a chain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from assay.plugins._networks import trained_parameters, weighted_parts
from assay.plugins.contract import BadInput, Batch, Bound, Context, Data, DataSpec, Gradients, State, Terms, mean_loss


class Innermost(Protocol):
    """How a learner makes gradients of a batch; weights are of examples (N,), `apart` asks for a row an example."""

    def __call__(self, state: State, batch: Batch, weights: Tensor | None, apart: bool = False) -> Gradients: ...


# the state


def own_modules(model: nn.Module, terms: Terms, data: Data, ctx: Context) -> dict[str, nn.Module]:
    """The modules that the terms have of their own, by the terms' names; each is put into its term's context."""
    own: dict[str, nn.Module] = {}
    for bound in [terms.objective, *terms.penalties, *terms.around]:
        module = bound.method.init(model, data, bound.ctx)
        if module is not None:
            own[bound.name] = bound.ctx.own = module.to(ctx.device)
    return own


def parameter_groups(model: nn.Module, own: Mapping[str, nn.Module]) -> list[dict[str, Any]]:
    """The model's trainable parameters as group `model`, then a group for each own module that has any."""
    modules = {"model": model, **{name: own[name] for name in sorted(own)}}
    trainable = {name: trained_parameters(module) for name, module in modules.items()}
    return [{"params": params, "name": name, "lr_scale": 1.0} for name, params in trainable.items() if params]


def first_state(model: nn.Module, terms: Terms, data: Data, ctx: Context) -> State:
    """The state before the first step: model, own modules, and one optimizer, `main`, for all of them."""
    own = own_modules(model, terms, data, ctx)
    optimizer = terms.optimizer.build(parameter_groups(model, own))
    return State(model.train(), own, {"main": optimizer}, terms)


# one update


def update(state: State, batch: Batch, innermost: Innermost, optimizer: str = "main") -> Tensor:
    """One update with the gradients that the arounds make of `innermost`'s; the mean loss, detached."""
    updater = state.optimizers[optimizer]

    def closure() -> Tensor:
        updater.zero_grad(set_to_none=True)
        result = surrounded(state, state.terms.around, batch, innermost=innermost)
        for parameter, gradient in zip(state.parameters(), result.grads, strict=True):
            parameter.grad = None if gradient is None else laid_out_like(gradient, parameter)
        return result.losses.detach().mean()

    if "closure" in state.terms.optimizer.card.needs:
        loss: Tensor = updater.step(closure)  # type: ignore[assignment, arg-type]
    else:
        loss = closure()
        updater.step()
    for bound in state.terms.around:
        bound.method.after(state, bound.ctx)
    return loss


def one_an_example(losses: Tensor) -> None:
    """Raises BadInput where losses whose gradients are asked for apart are one number for the batch."""
    if not losses.ndim:
        raise BadInput("train.around: gradients of single examples were asked for, and the losses are one number")


def differentiate(state: State, batch: Batch, weights: Tensor | None, apart: bool = False) -> Gradients:
    """Losses of the batch and the gradient of their (weighted) mean, one a trainable parameter; or, `apart`,
    of each (weighted) loss, a row an example."""
    with state.terms.autocast():
        losses = state.terms.losses(state.model, batch)
    if apart:
        one_an_example(losses)
        each = losses if weights is None else losses * weights
        rows = torch.autograd.grad(
            each, state.parameters(), torch.eye(len(each)).to(each), allow_unused=True, is_grads_batched=True
        )
        return Gradients(losses.detach(), list(rows))
    grads = torch.autograd.grad(mean_loss(losses, weights), state.parameters(), allow_unused=True)
    return Gradients(losses.detach(), list(grads))


def surrounded(
    state: State,
    around: Sequence[Bound],
    batch: Batch,
    given: Tensor | None = None,
    innermost: Innermost = differentiate,
) -> Gradients:
    """The gradients of `batch` through `around`, outermost first, and `innermost` within.

    What one around passes on holds for all inside it: weights of examples multiply, and other terms are
    `state.terms` of what is further in.
    """
    if not around:
        return innermost(state, batch, given)
    bound, *inner = around

    def next(batch: Batch, weights: Tensor | None = None, terms: Terms | None = None, apart: bool = False) -> Gradients:
        inside = state if terms is None else replace(state, terms=terms)
        both = weights if given is None else given if weights is None else given * weights
        if apart and inner:
            further = inner[0].method.method_name()
            raise BadInput(f"train.around: {bound.method.method_name()} must be the last; {further} is further in")
        if apart:
            return innermost(inside, batch, both, apart)
        return surrounded(inside, inner, batch, both, innermost)

    return bound.method.gradients(next, state, batch, bound.ctx)


def laid_out_like(gradient: Tensor, parameter: Tensor) -> Tensor:
    """The gradient with the parameter's strides: on a CPU torch's fused optimizers (2.13) walk both as
    flat memory, so that a transposed gradient would give a wrong update without an error."""
    gradient = gradient.detach()
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


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
        parameters = state.parameters()
        grads = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
        for parameter, gradient in zip(parameters, grads, strict=True):
            parameter.grad = gradient
        return loss

    loss: Tensor = optimizer.step(closure)  # type: ignore[assignment, arg-type]
    optimizer.zero_grad(set_to_none=True)  # gradients that hold a graph hold themselves
    return loss.detach()


def descend(state: State, batch: Batch) -> Tensor:
    """One update down the gradient, as the optimizer and the arounds ask for it; the mean loss, detached."""
    needs = state.terms.optimizer.card.needs
    if not state.terms.around and not needs:
        return plain_step(state, batch)
    if not state.terms.around and "graph" in needs:
        return graph_step(state, batch)
    return update(state, batch, differentiate)


# chains of layers


def weighted_layers(model: nn.Module, learner: str) -> list[list[str]]:
    """`weighted_parts` of the model's `layers`. Raises BadInput where that is no chain."""
    layers = getattr(model, "layers", None)
    if not isinstance(layers, nn.Sequential):
        found = "it has none" if layers is None else f"here it is a {type(layers).__name__}"
        raise BadInput(
            f"train.learner: {learner} trains models whose `layers` is a chain of layers, as mlp and small_cnn "
            f"have it; {found}"
        )
    return weighted_parts(layers)


def dense_chain(model: nn.Module, spec: DataSpec, learner: str) -> list[list[str]]:
    """`weighted_layers` of a model whose `layers` is a chain of dense layers on the flattened example.

    Raises BadInput where it is none.
    """
    parts = weighted_layers(model, learner)
    weighted = [
        m for m in model.get_submodule("layers").modules() if next(m.parameters(recurse=False), None) is not None
    ]
    units = math.prod(spec.shape)
    dense = bool(weighted) and all(isinstance(m, nn.Linear) for m in weighted)
    if not dense or weighted[0].in_features != units:
        kinds = sorted({type(m).__name__ for m in weighted})
        raise BadInput(
            f"train.learner: {learner} trains chains of dense layers on the example's {units} values, as mlp with a "
            f"hidden layer has it; here `layers` has {', '.join(kinds) or 'no weights'}"
        )
    return parts
