"""Run as a process: every method on a device that is not the CPU: `cuda`, or the pretended one (`elsewhere`).

The first argument is the device; ids of methods may follow. Prints one line of JSON: by method what went wrong,
'' where it computes there what it computes on the CPU, and 'skipped: …' where it cannot be asked. The suite's
worlds are what the methods are tried on.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
import elsewhere

from assay.plugins import registry, testing
from assay.plugins.contract import Attribution, BadInput, Batch, Bound, Context, NotAuditable, Record, Subject
from assay.plugins.testing import given, learners, links, loop
from assay.plugins.testing.base import Case, Skipped, context, reseed, takes_lab
from assay.plugins.testing.watch import stored_record
from assay.plugins.testing.worlds import World, trained, worlds
from assay.tasks.job import prepare_process

TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Place:
    """A world whose models and batches are on a device, as the frame gives them to methods."""

    world: World
    device: torch.device

    def model(self, seed: int = 0) -> nn.Module:
        """A trained model."""
        return self.world.model(seed).to(self.device)

    def batch(self) -> Batch:
        """Training examples."""
        return self.world.train_batch().to(self.device)

    def images(self) -> Batch:
        """The audited images."""
        return self.world.images().to(self.device)

    def context(self, seed: int = 0) -> Context:
        """A context; its generator is the CPU's."""
        models = {role: self.model(3).requires_grad_(False) for role in given.ROLES}
        return context(self.world.data.spec, seed, step=1, progress=0.5, device=self.device, models=models)

    def lab(self) -> Any:
        """The suite's lab, with models on the device."""
        return Lab(self.world, self.device)


class Lab(given.TinyLab):
    """Trains on the CPU and gives models on the device."""

    def __init__(self, world: World, device: torch.device):
        super().__init__(world, world.model())
        self.device = device

    def new_model(self, seed: int) -> nn.Module:
        return super().new_model(seed).to(self.device)

    def train(self, asks: Sequence[Any]) -> list[Any]:
        return [dataclasses.replace(found, model=found.model.to(self.device)) for found in super().train(asks)]

    def evaluate(self, model: nn.Module, evaluator: Any) -> Any:
        return super().evaluate(copy.deepcopy(model).cpu(), evaluator)


def subject(case: Case, place: Place, file: Path | None) -> Subject:
    """The suite's subject with its models and images on the device; predictions come to the CPU."""

    def moved(found: Subject) -> Subject:
        model = found.model.to(place.device)

        def predict(batch: Batch) -> Tensor:
            with torch.no_grad():
                out: Tensor = model(batch.x.to(place.device)).cpu()
            return out

        return dataclasses.replace(found, model=model, predict=predict, images=images)

    images = place.images() if case.id.startswith("attribute/audit/") else None
    plain = given.subject(case, place.world, place.world.model(), place.world.images() if images else None, file)
    assert plain.reference is not None
    peers = [peer.to(place.device) for peer in plain.peers]
    return dataclasses.replace(moved(plain), reference=moved(plain.reference), peers=peers)


# what each slot's methods are asked


def saliency(case: Case, place: Place) -> Any:
    found = case.method.attribute(place.model(), place.images(), place.world.score, place.context())
    assert found.values.device.type == place.device.type, f"the answer is on {found.values.device}"
    return found.values


def removal(case: Case, place: Place) -> Any:
    batch = place.batch()
    keep = (torch.rand(batch.size, *batch.x.shape[2:], generator=torch.Generator().manual_seed(0)) < 0.5).float()
    return case.method.remove(batch, keep.to(place.device), place.context())


def prediction(case: Case, place: Place) -> Any:
    return case.method.predict(place.model(), place.batch(), place.context())


def agreement(case: Case, place: Place) -> Any:
    rng = torch.Generator().manual_seed(0)
    a, b = (Attribution(torch.randn(8, 8, 8, generator=rng).to(place.device)) for _ in range(2))
    return case.method.agree(a, b)


def judged(case: Case, place: Place) -> Any:
    """An audit's or evaluator's numbers; maps come from the store, on the CPU."""
    with given.exported(case, place.world) as file:
        shown = subject(case, place, file)
        if case.id.startswith("evaluate/"):
            result = case.method.evaluate(shown, place.context())
        else:
            maps = given.explain(place.world)(place.world.model(), place.world.images())
            more = {"lab": place.lab()} if takes_lab(case.method.audit) else {}
            result = case.method.audit(shown, maps, place.context(), **more)
    for name, values in result.arrays.items():
        assert isinstance(values, np.ndarray), f"array '{name}' is a {type(values).__name__}"
    timed = "machine" in case.cls.card.needs
    return {} if timed else {name: torch.tensor(float(number.value)) for name, number in result.numbers.items()}


def link(case: Case, place: Place) -> Any:
    """Fitted and applied on the device, and applied on the CPU where an artifact is loaded."""
    more = {"lab": place.lab()} if takes_lab(case.method.fit) else {}
    record: Record = case.method.fit(place.model(), place.world.data, place.context(), **more)
    model = links.changed(case, place.model(), record)
    restore = case.method.constraint(model, record) if case.id.startswith("compress/") else None
    if restore is not None:
        restore()
    loaded = case.method.apply(place.world.fresh(7), stored_record(record))
    loaded.load_state_dict({name: value.cpu() for name, value in model.state_dict().items()})
    x = place.images().x
    with torch.no_grad():
        on_device, on_cpu = model(x).cpu(), loaded.eval()(x.cpu())
    assert torch.allclose(on_device, on_cpu, atol=TOLERANCE), "the reloaded model predicts something else"
    return on_device


def architecture(case: Case, place: Place) -> Any:
    torch.manual_seed(0)
    model = case.method.build(place.world.data.spec, place.context()).to(place.device)
    for module in model.modules():
        if isinstance(module, nn.Dropout):  # each device draws otherwise
            module.p = 0.0
    out = model(place.batch().x)
    out.square().sum().backward()
    return [out, *(p.grad for p in model.parameters() if p.grad is not None)]


def own(case: Case, place: Place, ctx: Context) -> Context:
    """The context with the method's own module, which the frame puts on the device."""
    reseed(0)
    module = case.method.init(place.model(), place.world.data, ctx)
    ctx.own = None if module is None else module.to(place.device)
    return ctx


def augmented(case: Case, place: Place) -> Any:
    return dict(case.method.augment(place.batch(), own(case, place, place.context())))


def loss(case: Case, place: Place) -> Any:
    model = place.model()
    values = case.method.loss(model, place.batch(), own(case, place, place.context()))
    assert values.device.type == place.device.type, f"the loss is on {values.device}"
    return [values, *torch.autograd.grad(values.mean(), list(model.parameters()), allow_unused=True)]


def training(place: Place, around: Sequence[Bound], ctx: Context, init: Callable[..., Any]) -> Any:
    """A state on the device with the suite's terms."""
    terms = loop.make_terms(place.world, list(around), penalties=False)
    for bound in (terms.objective, *terms.around):
        bound.ctx.device = place.device
    return init(place.model().train(), terms, place.world.data, ctx)


def learned(case: Case, place: Place, ctx: Context, fresh: nn.Module) -> Any:
    """A state of a learner on the device, of the network that it makes of an untrained one."""
    terms, data = loop.make_terms(place.world, [], penalties=False), learners.with_validation(place.world)
    terms.objective.ctx.device = place.device
    record = case.method.fit(fresh, data, place.context(3))
    network = case.method.apply(fresh, record).to(place.device)
    return case.method.init(network.train(), terms, data, ctx)


def around(case: Case, place: Place) -> Any:
    from assay.plugins.train.learner.backprop import Backprop

    bound = Bound(case.method, place.context(1), "around.0")
    reseed(0)
    state = training(place, [bound], place.context(), Backprop().init)
    for _ in range(2):
        Backprop().step(state, place.batch(), place.context())
    return {**state.model.state_dict(), **(case.method.weights(state, bound.ctx) or {})}


def learner(case: Case, place: Place) -> Any:
    answers = []
    for make in [make for world, make in learners.networks(case) if world is place.world]:
        ctx = place.context(2)
        reseed(0)
        state = learned(case, place, ctx, make())
        for _ in range(2):
            logs = case.method.step(state, place.batch(), ctx)
        model = case.method.finish(state)
        answers += [logs["loss"], model.eval()(place.images().x)]
    return answers


def optimizer(case: Case, place: Place) -> Any:
    model = place.model()
    found = case.method.build([{"params": list(model.parameters()), "name": "model", "lr_scale": 1.0}])

    def closure() -> Tensor:
        found.zero_grad()
        with torch.enable_grad():
            value = model(place.batch().x).square().mean()
        value.backward()
        return value

    for _ in range(2):
        closure()
        found.step(closure)
    found.load_state_dict(copy.deepcopy(found.state_dict()))
    found.step(closure)
    return model.state_dict()


PROBES: Mapping[str, Callable[[Case, Place], Any]] = {
    "attribute/saliency": saliency,
    "attribute/removal": removal,
    "attribute/agreement": agreement,
    "attribute/audit": judged,
    "evaluate": judged,
    "predict": prediction,
    "compress": link,
    "train/edit": link,
    "train/model": architecture,
    "train/augment": augmented,
    "train/objective": loss,
    "train/penalty": loss,
    "train/around": around,
    "train/learner": learner,
    "train/optimizer": optimizer,
}
"""What is asked by slot. Sources, transforms, batches and schedules see no device."""


def probe_of(id: str) -> Callable[[Case, Place], Any] | None:
    """What is asked of a method, by its id; None where no device is involved."""
    return next((probe for slot, probe in PROBES.items() if id.startswith(slot + "/")), None)


def different(first: Any, second: Any, path: str = "") -> str:
    """Where two answers differ, '' where they do not."""
    if isinstance(first, Tensor):
        a, b = first.detach().cpu().double(), second.detach().cpu().double()
        scale = max(1.0, float(a.nan_to_num().abs().max())) if a.numel() else 1.0
        same = a.shape == b.shape and torch.allclose(a, b, atol=TOLERANCE * scale, rtol=0, equal_nan=True)
        return "" if same else path or "the answer"
    pairs = first.items() if isinstance(first, Mapping) else enumerate(first or ())
    return next((text for k, v in pairs if v is not None and (text := different(v, second[k], f"{path}[{k}]"))), "")


def ask(id: str, device: torch.device) -> str:
    """What went wrong with a method, '' where nothing did."""
    probe = probe_of(id)
    assert probe is not None
    try:
        case, asked = testing.case(id), 0
        for world in worlds(case):
            trained(world.name, 0)  # here, where gradients are on
            try:
                reseed(0)
                expected = probe(case, Place(world, torch.device("cpu")))
            except (NotAuditable, BadInput):  # it asks for another network, with the reason
                continue
            reseed(0)
            found = probe(case, Place(world, device))
            asked += 1
            text = different(expected, found)
            if text:
                return f"{text} differs from the CPU's"
        return "" if asked else "skipped: not auditable"
    except Skipped as reason:
        return f"skipped: {reason}"
    except Exception as error:
        return f"it raises {type(error).__name__}: {error}"


if __name__ == "__main__":
    prepare_process(0, 1)
    there = elsewhere.register() if sys.argv[1] == elsewhere.NAME else torch.device(sys.argv[1])
    asked = sys.argv[2:] or [id for id in registry.index().entries if probe_of(id)]
    print(json.dumps({id: ask(id, there) for id in asked}))
