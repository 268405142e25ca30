"""What learners promise: they train a chain of dense layers, resume bit by bit, and their network reloads."""

from __future__ import annotations

import math
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from assay.plugins.contract import BadInput, Batch, Bound, Context, Data, Learner, State
from assay.plugins.testing.base import Case, demand, promise, reseed
from assay.plugins.testing.given import export, plain_context, runtime
from assay.plugins.testing.loop import TinyAround, make_terms, resumes
from assay.plugins.testing.watch import close, hooks, same, stored_record, stored_tensors, untouched
from assay.plugins.testing.worlds import ANY, World, worlds


def dense(world: World) -> nn.Module:
    """A chain of two dense layers and a head for the world's data: what each learner of classes or values must be
    able to train."""
    spec = world.data.spec
    units = math.prod(spec.shape)
    layers = OrderedDict(flat=nn.Flatten(), first=nn.Linear(units, 12), act=nn.ReLU(), second=nn.Linear(12, 8))
    chain = nn.Sequential(OrderedDict(**layers, last=nn.ReLU()))
    return nn.Sequential(OrderedDict(layers=chain, head=nn.Linear(8, spec.n_outputs)))


def networks(case: Case) -> Iterator[tuple[World, Callable[[], nn.Module]]]:
    """Each world with makers of untrained networks: the dense chain, and the world's own where the learner does
    not refuse it. Raises Failed where there is none."""
    refused, found = "", 0
    for world in worlds(case):
        chains = [partial(dense, world)] if world.problem in ANY else []
        for make in (*chains, partial(world.fresh, 5)):
            reseed(0)
            try:
                learner_state(case, world, make)
            except BadInput as error:
                demand(make not in chains, f"it refuses a chain of dense layers: {error}")
                refused = str(error)
                continue
            found += 1
            yield world, make
    demand(found, f"it refuses every network: {refused}")


def with_validation(world: World) -> Data:
    """The world's data with a split `validation`."""
    return world.data.replace(splits={**world.data.splits, "validation": world.data.test})


def learner_state(case: Case, world: World, make: Callable[[], nn.Module]) -> tuple[State, Context]:
    """A training with a penalty and an around that have state of their own, where the learner has a place for them."""
    refuses = case.cls.card.refuses
    around = [] if "around" in refuses else [Bound(TinyAround(), plain_context(world, 12), "around.0")]
    ctx: Context = plain_context(world, 2)
    data, model = with_validation(world), make()
    model = case.method.apply(model, case.method.fit(model, data, plain_context(world, 3)))
    terms = make_terms(world, around, penalties="penalty" not in refuses)
    state: State = case.method.init(model, terms, data, ctx)
    return state, ctx


def learner_step(case: Case, state: State, ctx: Context, batch: Batch) -> Tensor:
    """One step; its loss."""
    logs = case.method.step(state, batch, ctx)
    demand("loss" in logs, f"the logs are {sorted(logs)}: `loss` is missing")
    loss: Tensor = logs["loss"]
    return loss


@promise("train/learner")
def resume_learner(case: Case) -> None:
    """Steps, a checkpoint, and steps from it are the uninterrupted steps bit by bit, the terms' own
    modules included."""
    for world, make in networks(case):
        resumes(world, partial(learner_state, case, world, make), partial(learner_step, case))


@promise("train/learner")
def finish(case: Case) -> None:
    """`finish` gives a model that predicts finite numbers in eval mode, without hooks."""
    for world, make in networks(case):
        reseed(0)
        state, ctx = learner_state(case, world, make)
        case.method.step(state, world.train_batch(), ctx)
        model = case.method.finish(state).eval()
        x = world.images().x
        with torch.no_grad():
            out, expected = model(x), make().eval()(x).shape
        demand(out.shape == expected, f"predictions are {tuple(out.shape)}, not {tuple(expected)}")
        demand(torch.isfinite(out).all(), "predictions are not finite")
        demand(sum(map(hooks, model.modules())) == 0, "hooks are left on the model")


@promise("train/learner")
def network_reloads(case: Case) -> None:
    """Where its network is another than the recipe's model: the record, through storage, and the weights make
    the trained network again, which exports to ONNX; neither `fit` nor `apply` changes the model it is given."""
    if case.cls.apply is Learner.apply:
        return
    for world, make in networks(case):
        reseed(0)
        given, state = make(), learner_state(case, world, make)[0]
        with untouched(model=given, data=world.data):
            record = case.method.fit(given, world.data, plain_context(world, 3))
            case.method.apply(given, record)
        case.method.step(state, world.train_batch(), plain_context(world, 4))
        trained = case.method.finish(state).eval()
        again = case.method.apply(make(), stored_record(record))
        again.load_state_dict(stored_tensors(trained.state_dict()), strict=True)
        x = world.images().x
        with torch.no_grad():
            expected = trained(x)
            same(expected, again.eval()(x), "predictions of the reloaded network")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.onnx")
            export(again, x, path)
            close(expected[:3], torch.from_numpy(runtime(path, 1)(x[:3].numpy())), "exported network", 1e-4)
