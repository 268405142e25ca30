"""What the parts of a recipe promise: models, batches, augments, losses, optimizers, schedules."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.plugins import registry
from assay.plugins.contract import BadInput, Batch, Context, DataSpec
from assay.plugins.testing.base import Case, context, demand, promise, reseed, twice
from assay.plugins.testing.given import export, plain_context, runtime
from assay.plugins.testing.watch import close, hooks, same, stored_tensors, untouched
from assay.plugins.testing.worlds import World, worlds

SIZES = (
    DataSpec(shape=(1, 28, 28), classes=tuple("0123456789")),
    DataSpec(shape=(3, 16, 12), classes=("a", "b"), low=(-2.0,) * 3, high=(2.0,) * 3, scale=(4.0,) * 3),
)

ROLES = ("critic",)
"""Children of a model that take no part in its predictions: a learner asks them."""

# models


def specs(case: Case) -> list[DataSpec]:
    """What the model is built for: the worlds that its card allows, and images of other sizes to classify."""
    found = [world.data.spec for world in worlds(case)]
    classifies = {"any", "classification"} & set(case.cls.card.problems)
    sees = {"any", "image"} & set(case.cls.card.modality)
    return [*found, *SIZES] if classifies and sees else found


def build(case: Case, spec: DataSpec, seed: int = 0) -> nn.Module:
    """A new model, torch's global generator seeded as the frame does."""
    reseed(seed)
    model: nn.Module = case.method.build(spec, context(spec))
    return model


def inputs(spec: DataSpec, count: int = 4) -> Tensor:
    """Random inputs: numbers in [0, 1), tokens as numbers of classes."""
    rng = torch.Generator().manual_seed(0)
    if spec.modality == "tokens":
        return torch.randint(spec.n_outputs, (count, *spec.shape), generator=rng)
    return torch.rand((count, *spec.shape), generator=rng)


def buildable(case: Case) -> Iterator[DataSpec]:
    """The specs that the model can be built for; the first of each problem must be among them."""
    problems = set()
    for spec in specs(case):
        try:
            build(case, spec)
        except BadInput as error:
            demand(spec.problem in problems, f"it cannot be built for {spec.problem} of shape {spec.shape}: {error}")
            continue
        problems.add(spec.problem)
        yield spec


def predicted(spec: DataSpec) -> tuple[int, ...]:
    """The shape of a prediction of one example, as the problem says."""
    problem = registry.make("problems", spec.problem)
    return tuple(problem.output(spec))


@promise("train/model")
def shape(case: Case) -> None:
    """It has `layers` and `head`, predictions of the problem's shape for inputs of several sizes, and leaves no
    hook."""
    for spec in buildable(case):
        model = build(case, spec).eval()
        names = dict(model.named_children())
        demand({"layers", "head"} <= set(names), f"its children are {sorted(names)}: `layers` and `head` are needed")
        with torch.no_grad():
            out = model(inputs(spec))
        expected = (4, *predicted(spec))
        fits = len(out.shape) == len(expected) and all(e in (n, -1) for n, e in zip(out.shape, expected))
        demand(fits, f"for {spec.shape} it gives {tuple(out.shape)}, not {expected} (-1 stands for any)")
        demand(torch.isfinite(out).all(), f"for {spec.shape} its outputs are not finite")
        demand(sum(map(hooks, model.modules())) == 0, "it has hooks")


@promise("train/model")
def determinism(case: Case) -> None:
    """The same global seed builds the same weights, another seed others; a stored state dict makes a
    rebuilt model equal."""
    spec = specs(case)[0]
    first, second, other = build(case, spec, 0), build(case, spec, 0), build(case, spec, 1)
    same(first, second, "two models of one seed")
    moved = any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters()))
    demand(moved, "another seed gives the same weights")
    other.load_state_dict(stored_tensors(first.state_dict()), strict=True)
    x = inputs(spec)
    with torch.no_grad():
        same(first.eval()(x), other.eval()(x), "logits after loading the state")


@promise("train/model")
def evaluation_mode(case: Case) -> None:
    """In eval mode a prediction changes nothing, draws nothing and does not depend on its batch."""
    for spec in buildable(case):
        model, x = build(case, spec).eval(), inputs(spec)
        with untouched(model=model, x=x), torch.no_grad():
            first, second = twice(partial(model, x))
        same(first, second, "predicted twice")
        with torch.no_grad():
            close(first[2:], model(x[2:]), "examples apart")


@promise("train/model")
def trains(case: Case) -> None:
    """One step down the gradient reaches every trainable parameter with a finite gradient, those of a role that
    only a learner asks excepted."""
    spec = specs(case)[0]
    model = build(case, spec).train()
    (model(inputs(spec)) - 1.0).square().mean().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name.split(".")[0] not in ROLES:
            gradient = parameter.grad
            demand(gradient is not None, f"'{name}' takes no part in the prediction")
            demand(gradient is None or gradient.isfinite().all(), f"the gradient of '{name}' is not finite")


@promise("train/model")
def exports(case: Case) -> None:
    """Its ONNX export gives the same logits in onnxruntime, for any batch size."""
    spec = specs(case)[0]
    model = build(case, spec).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        export(model, inputs(spec), path)
        call = runtime(path, 1)
        for count in (1, 5):
            x = inputs(spec, count)
            with torch.no_grad():
                close(model(x), torch.from_numpy(call(x.numpy())), f"exported, batch of {count}", 1e-4)


# batches


def epoch(case: Case, world: World) -> list[Tensor]:
    """One epoch's batches."""
    return list(case.method.epoch(world.data.train, plain_context(world)))


@promise("train/batches")
def order(case: Case) -> None:
    """Batches are int64 indices of the split, as many as `steps` says, the same for the same seed."""
    for world in worlds(case):
        split = world.data.train

        found, again = twice(partial(epoch, case, world))
        same(found, again, "two epochs of one seed")
        demand(len(found) == case.method.steps(split), f"{len(found)} batches, `steps` says {case.method.steps(split)}")
        demand(found, "an epoch without batches")
        for index in found:
            sound = index.dtype == torch.int64 and index.ndim == 1 and len(index)
            demand(sound, f"a batch is {index.dtype} of shape {tuple(index.shape)}: int64 (n,) is needed")
            demand(index.min() >= 0 and index.max() < len(split), f"indices are out of 0..{len(split) - 1}")


# augments and losses


def prepared(case: Case, world: World, seed: int = 0) -> Context:
    """A context with the method's own state."""
    ctx: Context = plain_context(world, seed, step=1, progress=0.5)
    reseed(seed)
    ctx.own = case.method.init(world.model(), world.data, ctx)
    return ctx


def augmented(case: Case, world: World, batch: Batch) -> Batch:
    """The batch as a new method instance changes it."""
    found: Batch = case.method.augment(batch, prepared(case, world))
    return found


@promise("train/augment")
def augment(case: Case) -> None:
    """It leaves the batch it is given, keeps the number of examples and the shape of inputs, depends on
    its generator alone, and takes what another augment has changed."""
    for world in worlds(case):
        batch = world.train_batch()
        with untouched(batch=batch):
            first, second = twice(partial(augmented, case, world, batch))
        same(first, second, "two augmented batches of one seed")
        sound_batch(first, batch, world)
        ctx = prepared(case, world)
        sound_batch(case.method.augment(case.method.augment(batch, ctx), ctx), batch, world)


def sound_batch(found: Any, given: Batch, world: World) -> None:
    """Raises Failed where an augmented batch is not fit to train on."""
    demand(isinstance(found, Batch), f"it returns a {type(found).__name__}, not a Batch")
    demand(set(given) <= set(found), f"fields went missing: {sorted(set(given) - set(found))}")
    demand(found.x.shape[1:] == given.x.shape[1:], f"x became {tuple(found.x.shape)}")
    demand(found.x.dtype == given.x.dtype, f"x became {found.x.dtype}")
    lengths = {name: len(values) for name, values in found.items()}
    demand(len(set(lengths.values())) == 1, f"fields have different lengths: {lengths}")
    for name, values in found.items():
        demand(torch.isfinite(values.double()).all(), f"field '{name}' is not finite")
    if world.problem == "classification" and found.y.is_floating_point():
        demand((found.y >= 0).all(), "a label's probability is negative")
        close(found.y.sum(1), torch.ones(len(found.y)), "the sum of a label's probabilities")


def trainable(case: Case) -> Iterator[World]:
    """The worlds whose network the loss takes. Raises Failed where it takes none."""
    reasons = []
    for world in worlds(case):
        try:
            prepared(case, world)
        except BadInput as error:
            reasons.append(str(error))
            continue
        yield world
    demand(len(reasons) < len(worlds(case)), "; ".join(reasons))


LOSSES = ("train/objective", "train/penalty")


@promise(*LOSSES)
def loss(case: Case) -> None:
    """(N,) or a scalar, finite, with finite gradients in the model; nothing that it is given changes."""
    for world in trainable(case):
        model, batch = world.model(), world.train_batch()
        ctx = prepared(case, world)
        with untouched(model=model, batch=batch, models=ctx.models):
            values = case.method.loss(model, batch, ctx)
        demand(values.shape in ((batch.size,), ()), f"the loss has shape {tuple(values.shape)}: (N,) or a scalar")
        demand(torch.isfinite(values).all(), "the loss is not finite")
        demand(values.requires_grad, "the loss has no gradient")
        grads = torch.autograd.grad(values.mean(), list(model.parameters()), allow_unused=True)
        demand(any(g is not None for g in grads), "the loss does not depend on the model")
        demand(all(torch.isfinite(g).all() for g in grads if g is not None), "a gradient is not finite")


def losses(case: Case, world: World, model: nn.Module, batch: Batch) -> Tensor:
    """The loss without its graph."""
    values: Tensor = case.method.loss(model, batch, prepared(case, world)).detach()
    return values


@promise(*LOSSES)
def repeatable(case: Case) -> None:
    """The same seed gives the same loss, whatever the global generators hold, and an example's own loss
    does not depend on its batch."""
    for world in trainable(case):
        model, batch = world.model(), world.train_batch()

        whole, again = twice(partial(losses, case, world, model, batch))
        same(whole, again, "two losses of one seed")
        if whole.ndim and not case.cls.card.coupled:
            close(whole[:3], losses(case, world, model, batch.take(slice(0, 3))), "the first three examples apart")


@promise("train/objective")
def soft_labels(case: Case) -> None:
    """Labels given as probabilities, as mixing augments make them, mean the same as numbers of classes."""
    for world in trainable(case):
        if world.problem != "classification":
            continue
        model, batch = world.model(), world.train_batch()
        soft = batch.replace(y=F.one_hot(batch.y, world.data.spec.n_outputs).float())
        hard, other = (case.method.loss(model, b, prepared(case, world)) for b in (batch, soft))
        close(hard, other, "labels as probabilities")
