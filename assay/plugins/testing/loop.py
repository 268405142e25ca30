"""What arounds promise: gradients, and a State that resumes bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from assay.plugins.contract import (
    Around,
    Batch,
    Bound,
    Card,
    Context,
    Data,
    Gradients,
    NextGradients,
    Penalty,
    State,
    Terms,
    mean_loss,
)
from assay.plugins.testing.base import Case, demand, promise, reseed
from assay.plugins.testing.given import TinyObjective, TinyOptimizer, TinySchedule, plain_context
from assay.plugins.testing.watch import hooks, same, stored, untouched
from assay.plugins.testing.worlds import World, worlds

STEPS = 2
Step = Callable[[State, Context, Batch], Tensor]


class TinyPenalty(Penalty):
    """A penalty with a trained module of its own: it predicts the model's first output."""

    card = Card(title="The suite's penalty")

    def init(self, model: nn.Module, data: Data, ctx: Context) -> nn.Module:
        return nn.Linear(1, 1)

    def loss(self, model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
        first = ctx.forward(model, batch).flatten(1)[:, :1]
        assert ctx.own is not None
        error: Tensor = ctx.own(first.detach()) - first
        return 0.1 * error.square().squeeze(1)


class TinyAround(Around):
    """Scales the gradients and counts its calls in a buffer of its own."""

    card = Card(title="The suite's around")

    def init(self, model: nn.Module, data: Data, ctx: Context) -> nn.Module:
        own = nn.Module()
        own.register_buffer("calls", torch.zeros(()))
        return own

    def gradients(self, next: NextGradients, state: State, batch: Batch, ctx: Context) -> Gradients:
        assert ctx.own is not None
        for calls in ctx.own.buffers():
            calls.add_(1)
        found = next(batch)
        return Gradients(found.losses, [None if g is None else g * 0.5 for g in found.grads])


def make_terms(world: World, around: list[Bound], penalties: bool = False) -> Terms:
    """The suite's own terms with these arounds."""
    own = [Bound(TinyPenalty(), plain_context(world, 11), "penalty.0")] if penalties else []
    objective = Bound(TinyObjective(world=world.name), plain_context(world, 10), "objective")
    return Terms(objective, own, around, TinyOptimizer(lr=0.05), TinySchedule(), total_steps=2 * STEPS)


def contexts(state: State, ctx: Context) -> list[Context]:
    """Every context whose generator the training draws from."""
    terms = state.terms
    return [ctx, *(b.ctx for b in (terms.objective, *terms.penalties, *terms.around))]


def snapshot(state: State, ctx: Context) -> dict[str, Any]:
    """All that the frame checkpoints, through storage without pickle."""
    found: dict[str, Any] = stored(
        {
            "model": state.model.state_dict(),
            "own": {k: m.state_dict() for k, m in state.own.items()},
            "optimizers": {k: o.state_dict() for k, o in state.optimizers.items()},
            "extra": state.extra,
            "rng": [c.rng.get_state() for c in contexts(state, ctx)],
            "torch": torch.get_rng_state(),
        }
    )
    return found


def restore(state: State, ctx: Context, saved: dict[str, Any]) -> None:
    """Puts a snapshot into a new state."""
    state.model.load_state_dict(saved["model"])
    demand(set(state.own) == set(saved["own"]), f"own modules {sorted(state.own)} and stored {sorted(saved['own'])}")
    for name, own in state.own.items():
        own.load_state_dict(saved["own"][name])
    for name, optimizer in state.optimizers.items():
        optimizer.load_state_dict(saved["optimizers"][name])
    state.extra = saved["extra"]
    for one, bits in zip(contexts(state, ctx), saved["rng"], strict=True):
        one.rng.set_state(bits)
    torch.set_rng_state(saved["torch"])


def advance(state: State, ctx: Context, world: World, step: Step, first: int) -> None:
    """The steps from number `first` on, each on its own batch."""
    for i in range(first, first + STEPS):
        for one in contexts(state, ctx):
            one.step, one.progress = i, i / (2 * STEPS)
        batch = world.data.train.batch(slice(8 * i, 8 * i + 8))
        with untouched(batch=batch):
            loss = step(state, ctx, batch)
        demand(loss.ndim == 0 and not loss.requires_grad, "the loss must be a detached scalar")
        demand(torch.isfinite(loss), "the loss is not finite")


def resumes(world: World, start: Callable[[], tuple[State, Context]], step: Step) -> None:
    """Raises Failed where steps, a checkpoint, and steps from it differ from uninterrupted steps."""
    reseed(0)
    whole, ctx = start()
    before = stored(whole.model.state_dict())
    advance(whole, ctx, world, step, 0)
    saved = snapshot(whole, ctx)
    changed = any(not torch.equal(v, saved["model"][k]) for k, v in before.items())
    demand(changed, f"{STEPS} steps change nothing in the model")
    advance(whole, ctx, world, step, STEPS)
    reseed(99)
    again, other = start()
    restore(again, other, saved)
    advance(again, other, world, step, STEPS)
    for part in ("model", "own", "optimizers", "extra", "rng"):
        same(snapshot(whole, ctx)[part], snapshot(again, other)[part], f"resumed and uninterrupted {part}")
    demand(sum(map(hooks, again.model.modules())) == 0, "hooks are left on the model")


# arounds


def differentiate(state: State) -> NextGradients:
    """The innermost gradient evaluation."""

    def next(batch: Batch, weights: Tensor | None = None, terms: Terms | None = None, apart: bool = False) -> Gradients:
        losses = (terms or state.terms).losses(state.model, batch)
        if apart:
            each, rows = losses if weights is None else losses * weights, torch.eye(len(losses))
            found = torch.autograd.grad(each, state.parameters(), rows, allow_unused=True, is_grads_batched=True)
            return Gradients(losses.detach(), list(found))
        grads = torch.autograd.grad(mean_loss(losses, weights), state.parameters(), allow_unused=True)
        return Gradients(losses.detach(), list(grads))

    return next


def around_state(case: Case, world: World) -> tuple[State, Context]:
    """A training with this around alone."""
    model = world.fresh(5).train()
    bound = Bound(case.method, plain_context(world, 1), "around.0")
    bound.ctx.own = case.method.init(model, world.data, bound.ctx)
    own = {} if bound.ctx.own is None else {"around.0": bound.ctx.own}
    terms = make_terms(world, [bound])
    modules = [model, *own.values()]
    params = [p for m in modules for p in m.parameters() if p.requires_grad]
    optimizer = terms.optimizer.build([{"params": params, "name": "model", "lr_scale": 1.0}])
    return State(model, own, {"main": optimizer}, terms), bound.ctx


def around_step(state: State, ctx: Context, batch: Batch) -> Tensor:
    """One update with the gradients that the around gives."""
    (bound,) = state.terms.around
    found = bound.method.gradients(differentiate(state), state, batch, ctx)
    for parameter, gradient in zip(state.parameters(), found.grads, strict=True):
        parameter.grad = None if gradient is None else gradient.detach().contiguous()
    state.optimizers["main"].step()
    bound.method.after(state, ctx)
    return found.losses.detach().mean()


@promise("train/around")
def gradients(case: Case) -> None:
    """One finite gradient a parameter in its shape, finite losses; weights, mode and batch are as they
    were, and nothing accumulates in `.grad`."""
    for world in worlds(case):
        state, ctx = around_state(case, world)
        batch = world.train_batch()
        weights = dict(state.model.named_parameters())
        modes = {name: module.training for name, module in state.model.named_modules()}
        with untouched(weights=weights, batch=batch):
            found = case.method.gradients(differentiate(state), state, batch, ctx)
        demand({n: m.training for n, m in state.model.named_modules()} == modes, "it leaves the model in another mode")
        demand(isinstance(found, Gradients), f"it returns a {type(found).__name__}, not Gradients")
        demand(torch.isfinite(found.losses).all(), "losses are not finite")
        demand(found.losses.shape in ((), (batch.size,)), f"losses have shape {tuple(found.losses.shape)}")
        demand(len(found.grads) == len(state.parameters()), "not one gradient a parameter")
        for parameter, gradient in zip(state.parameters(), found.grads):
            if gradient is not None:
                demand(gradient.shape == parameter.shape, "a gradient has another shape than its parameter")
                demand(torch.isfinite(gradient).all(), "a gradient is not finite")


@promise("train/around")
def resume_around(case: Case) -> None:
    """Steps, a checkpoint, and steps from it are the uninterrupted steps bit by bit, its own state too."""
    for world in worlds(case):
        resumes(world, partial(around_state, case, world), around_step)


@promise("train/around")
def final_weights(case: Case) -> None:
    """The `weights` that validation uses, where it has others, fit the model's state dict and are finite."""
    for world in worlds(case):
        state, ctx = around_state(case, world)
        advance(state, ctx, world, around_step, 0)
        with untouched(model=state.model):
            weights = case.method.weights(state, ctx)
        if weights is None:
            continue
        model = state.model.state_dict()
        demand(set(weights) <= set(model), f"unknown entries: {sorted(set(weights) - set(model))[:3]}")
        for name, values in weights.items():
            demand(values.shape == model[name].shape, f"'{name}' has another shape")
            demand(torch.isfinite(values.double()).all(), f"'{name}' is not finite")
