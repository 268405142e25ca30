"""What edits and links promise: decisions in a record that replays on a rebuilt model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from assay.plugins.contract import NotAuditable, Record
from assay.plugins.testing.base import Case, Skipped, demand, promise, takes_lab, twice
from assay.plugins.testing.given import TinyLab, plain_context
from assay.plugins.testing.watch import same, stored_record, stored_tensors, untouched
from assay.plugins.testing.worlds import World, worlds

SLOTS = ("train/edit", "compress")


def fit(case: Case, world: World, model: nn.Module) -> Record:
    """The record of a link on a model."""
    more: dict[str, Any] = {"lab": TinyLab(world, model)} if takes_lab(case.method.fit) else {}
    record: Record = case.method.fit(model, world.data, plain_context(world), **more)
    return record


def changed(case: Case, model: nn.Module, record: Record) -> nn.Module:
    """The model as the frame makes it: `apply`, then the record's weights where it has any."""
    result: nn.Module = case.method.apply(model, record)
    if record.weights is not None:
        result.load_state_dict(dict(record.weights))
    return result.eval()


def logits(model: nn.Module, world: World) -> Tensor:
    """Predictions of the test images."""
    with torch.no_grad():
        out: Tensor = model(world.images().x)
    return out


def linked(case: Case) -> Iterator[tuple[World, nn.Module, Record]]:
    """Each world with a trained model and the record on another copy of it; Skipped where it can be
    asked of none."""
    asked, reasons = False, []
    for world in worlds(case):
        try:
            record = fit(case, world, world.model())
        except NotAuditable as error:
            reasons.append(str(error))
            continue
        asked = True
        yield world, world.model(), record
    if not asked:
        raise Skipped("; ".join(reasons))


@promise(*SLOTS)
def purity(case: Case) -> None:
    """`fit` and `apply` change neither model nor data, and the new model shares no tensor with the old."""
    for world, model, _ in linked(case):
        with untouched(model=model, data=world.data):
            record = fit(case, world, model)
            result = changed(case, model, record)
        demand(isinstance(result, nn.Module), f"`apply` returns a {type(result).__name__}")
        with untouched(model=model), torch.no_grad():
            for tensor in (*result.parameters(), *result.buffers()):
                tensor.zero_()


@promise(*SLOTS)
def purity_after_an_exception(case: Case) -> None:
    """A model that raises in the middle of `fit` is as it was: no hook, mode or gradient is left."""
    for world, _, _ in linked(case):
        for fuse in (1, 2):
            model = world.model()
            model.fuse = fuse  # type: ignore[assignment]
            with untouched(model=model, data=world.data), contextlib.suppress(Exception):
                fit(case, world, model)


@promise(*SLOTS)
def determinism(case: Case) -> None:
    """The same seed gives the same record, whatever the global generators hold."""
    for world, model, _ in linked(case):
        same(*twice(partial(fit, case, world, model)), "two records of one seed")


@promise(*SLOTS)
def reload(case: Case) -> None:
    """The record, through JSON and safetensors, applied to a new model of the same architecture makes
    one that takes the stored weights and gives the same logits bit by bit."""
    for world, model, record in linked(case):
        result = changed(case, model, record)
        again = case.method.apply(world.fresh(7), stored_record(record))
        again.load_state_dict(stored_tensors(result.state_dict()), strict=True)
        expected = logits(result, world)
        demand(expected.shape == logits(model, world).shape, f"predictions became {tuple(expected.shape)}")
        demand(torch.isfinite(expected).all(), "predictions are not finite")
        same(expected, logits(again.eval(), world), "logits of the reloaded model")
        same(result.state_dict(), again.state_dict(), "the reloaded state")


@promise("compress")
def constraint(case: Case) -> None:
    """What the link leaves on the model holds at once, and again after any change of the weights."""
    for _, model, record in linked(case):
        result = changed(case, model, record)
        restore = case.method.constraint(result, record)
        if restore is None:
            continue
        with untouched(model=result):
            restore()
        with torch.no_grad():
            rng = torch.Generator().manual_seed(5)
            for parameter in result.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=rng))
        moved = {k: v.clone() for k, v in result.state_dict().items()}
        restore()
        demand(any(not torch.equal(v, moved[k]) for k, v in result.state_dict().items()), "it restores nothing")
        with untouched(model=result):
            restore()


@promise("compress")
def constraint_after_a_later_link(case: Case) -> None:
    """What it leaves on the model can be restored after a later link has cut its layers or put others in their
    place: it then holds of what is left."""
    for world, model, record in linked(case):
        result = changed(case, model, record)
        result.head = nn.LazyLinear(world.data.spec.n_outputs + 1)
        logits(result, world)
        first = next((m for m in result.modules() if isinstance(m, nn.Conv2d | nn.Linear)), None)
        if first is not None:
            first.weight = nn.Parameter(first.weight.detach()[1:].clone())
        restore = case.method.constraint(result, record)
        if restore is not None:
            restore()


@promise("compress")
def asks(case: Case) -> None:
    """The trainings that `asks` announces are those that `fit` asks the lab for, all in one list."""
    if not takes_lab(case.method.fit):
        return
    announced = list(case.method.asks())
    for world, model, _ in linked(case):
        lab = TinyLab(world, model)
        case.method.fit(model, world.data, plain_context(world), lab=lab)
        demand(len(lab.asked) <= 1, f"it calls the lab {len(lab.asked)} times: each time all its work starts again")
        demand(not announced or lab.asked == [announced], f"announced {announced}, asked for {lab.asked}")


@promise("compress")
def trains_on(case: Case) -> None:
    """Where the link does not drop `grad`, the compressed model still has a gradient in its input."""
    if "grad" in case.cls.card.drops:
        return
    for world, model, record in linked(case):
        x = world.images().x.requires_grad_()
        gradient = torch.autograd.grad(changed(case, model, record)(x).square().sum(), x)[0]
        demand(torch.isfinite(gradient).all() and gradient.abs().sum() > 0, "predictions have no gradient in the input")
