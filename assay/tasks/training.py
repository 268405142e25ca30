"""The training frame: it owns the loop, the learning rate, checkpoints and the guard against NaN."""

from __future__ import annotations

import contextlib
import csv
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from assay.plugins import registry
from assay.plugins.contract import (
    AssayError,
    BadInput,
    Batch,
    Bound,
    Context,
    Data,
    Learner,
    Split,
    State,
    Terms,
    to_tensor,
)
from assay.tasks import ranks
from assay.tasks.artifacts import (
    ModelCard,
    load_card,
    load_data,
    load_model,
    load_steps,
    save_model,
    save_tensors,
    step_of,
)
from assay.tasks.checkpoint import resume_from, save_checkpoint
from assay.tasks.compiled import compile_calls
from assay.tasks.group import Group
from assay.tasks.job import Job, generator_states, method_of, seed_for, set_generator_states
from assay.tasks.parallel import share

CHECKPOINT_SECONDS = 30.0
IN_MEMORY_BYTES = 4 * 2**30
CHECK_EVERY_ON_GPU = 32
ADVICE = "a lower train.optimizer.lr, or `around: [clip]`, may help"


class Diverged(AssayError):
    """The loss is no longer finite."""


# the recipe, bound


@dataclass
class Recipe:
    """A training's methods, made from the cell's spec."""

    entries: Mapping[str, Any]

    def one(self, slot: str) -> Any:
        """The method of a slot."""
        return method_of(self.entries[slot])

    def many(self, slot: str) -> list[Any]:
        """The methods of a slot, in order."""
        return [method_of(entry) for entry in self.entries[slot]]


@dataclass
class Examples:
    """A training split as tensors: float32 on the device where that fits, else as stored."""

    split: Split
    device: torch.device
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        size = sum(np.prod(v.shape) * (4 if v.dtype == np.uint8 else v.itemsize) for v in self.split.fields.values())
        if size <= IN_MEMORY_BYTES:
            self.tensors = {k: to_tensor(v, k).to(self.device) for k, v in self.split.fields.items()}

    def batch(self, index: Tensor) -> Batch:
        """The examples numbered `index` (int64, on the CPU)."""
        if not self.tensors:
            return self.split.batch(index.numpy()).to(self.device)
        at = index.to(self.device)
        return Batch({"index": at, **{k: v.index_select(0, at) for k, v in self.tensors.items()}})


@dataclass
class Training:
    """One training under way."""

    job: Job
    data: Data
    recipe: Recipe
    card: ModelCard
    model: nn.Module
    group: Group | None = None
    start_epoch: int = 0
    start_batch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    sums: dict[str, Tensor | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        spec = self.job.spec["recipe"]
        self.epochs: int = spec["epochs"]
        self.device = self.job.device
        self.model.to(self.device)
        if spec["channels_last"]:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if spec["compile"]:
            compile_calls(self.model, self.device)
        self.writes = self.group is None or self.group.rank == 0
        if self.group is not None:
            for shared in (self.model, *self.job.models.values()):
                share(shared, self.group)
        self.channels_last: bool = spec["channels_last"]
        self.batches = self.bind(self.recipe.one("batches"), "batches")
        self.augment = [self.bind(m, f"augment.{i}") for i, m in enumerate(self.recipe.many("augment"))]
        self.learner = self.bind(self.recipe.one("learner"), "learner")
        self.terms = self.make_terms(spec["precision"])
        self.per_epoch = self.batches.method.steps(self.data.train)
        self.state: State = self.learner.method.init(self.model, self.terms, self.data, self.learner.ctx)
        self.bounds = [
            self.batches,
            self.learner,
            *self.augment,
            self.terms.objective,
            *self.terms.penalties,
            *self.terms.around,
        ]
        for bound in self.augment:
            own = bound.method.init(self.model, self.data, bound.ctx)
            if own is not None:  # no optimizer has it: an augmentation's module changes by its own doing only
                self.state.own[bound.name] = bound.ctx.own = own.to(self.device).requires_grad_(False)
        self.constraints = _constraints(self.model, self.card)

    def bind(self, method: Any, name: str) -> Bound:
        """A method with its own context, seeded by its place and name."""
        return Bound(method, self.job.context(self.data.spec, f"{name}:{method.method_name()}"), name)

    def make_terms(self, precision: str) -> Terms:
        """The terms of the recipe, bound."""
        batches = self.recipe.one("batches")
        autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
        if precision == "bf16":
            kind = self.device.type

            def autocast() -> contextlib.AbstractContextManager[Any]:
                return torch.autocast(kind, dtype=torch.bfloat16)

        return Terms(
            objective=self.bind(self.recipe.one("objective"), "objective"),
            penalties=[self.bind(m, f"penalty.{i}") for i, m in enumerate(self.recipe.many("penalty"))],
            around=[self.bind(m, f"around.{i}") for i, m in enumerate(self.recipe.many("around"))],
            optimizer=self.recipe.one("optimizer"),
            schedule=self.recipe.one("schedule"),
            total_steps=max(1, self.epochs * batches.steps(self.data.train)),
            autocast=autocast,
        )

    # state

    def snapshot(self, epoch: int, batch: int, epoch_rng: Tensor) -> dict[str, Any]:
        """Everything that the rest of the training depends on."""
        return {
            "epoch": epoch,
            "batch": batch,
            "epoch_rng": epoch_rng,
            "model": self.state.model.state_dict(),
            "own": {k: m.state_dict() for k, m in self.state.own.items()},
            "optimizers": {k: o.state_dict() for k, o in self.state.optimizers.items()},
            "extra": self.state.extra,
            "rng": {b.name: b.ctx.rng.get_state() for b in self.bounds},
            "torch": generator_states(self.device),
            "history": self.history,
            "sums": self.sums,
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """The state of a snapshot."""
        self.state.model.load_state_dict(saved["model"])
        for name, own in self.state.own.items():
            own.load_state_dict(saved["own"][name])
        for name, optimizer in self.state.optimizers.items():
            optimizer.load_state_dict(saved["optimizers"][name])
            _lay_out(optimizer)
        self.state.extra = saved["extra"]
        for bound in self.bounds:
            bound.ctx.rng.set_state(saved["rng"][bound.name])
        self.batches.ctx.rng.set_state(saved["epoch_rng"])
        set_generator_states(self.device, saved["torch"])
        self.history, self.sums = saved["history"], saved["sums"]
        self.start_epoch, self.start_batch = saved["epoch"], saved["batch"]

    # the loop

    def run(self) -> nn.Module:
        """Trains to the end, from the resumable checkpoint where there is one."""
        resumable = self.job.work / "resume.safetensors"
        resume = functools.partial(resume_from, resumable, self.device)
        saved = resume() if self.group is None else self.group.first_alone(resume)
        if saved is not None:
            self.restore(saved)
        else:
            self.keep(0)
        if self.group is not None:
            self.group.agree(self.snapshot(self.start_epoch, self.start_batch, self.batches.ctx.rng.get_state()))
        self.examples = Examples(self.data.train, self.device)
        self.saved_at = time.monotonic()
        for epoch in range(self.start_epoch, self.epochs):
            self.epoch(epoch, resumable)
        model: nn.Module = self.learner.method.finish(self.state)
        return self.final(model)

    def epoch(self, epoch: int, resumable: Path) -> None:
        """One epoch, or the rest of it."""
        epoch_rng = self.batches.ctx.rng.get_state()
        order = list(self.batches.method.epoch(self.data.train, self.batches.ctx))
        pending: list[tuple[int, Tensor]] = []
        on_cpu = self.device.type == "cpu"
        for i in range(self.start_batch, len(order)):
            step = epoch * self.per_epoch + i
            logs = self.step(step, order[i])
            pending.append((i, logs["loss"]))
            if on_cpu or len(pending) >= CHECK_EVERY_ON_GPU or i == len(order) - 1:
                self.check(pending, epoch, order, resumable)
                pending.clear()
            for name, value in logs.items():
                self.sums[name] = self.sums.get(name, 0.0) + (value.item() if on_cpu else value.detach().double())
            self.job.progress(step + 1, self.terms.total_steps, f"epoch {epoch + 1}/{self.epochs}")
            if time.monotonic() - self.saved_at > CHECKPOINT_SECONDS and i + 1 < len(order):
                self.save(resumable, self.snapshot(epoch, i + 1, epoch_rng))
        self.start_batch = 0
        row = {name: float(total) / len(order) for name, total in self.sums.items()}
        self.history.append({"epoch": epoch + 1, "lr": self.lr(), **row, **self.validate()})
        self.sums = {}
        self.keep(epoch + 1)
        snapshot = self.snapshot(epoch + 1, 0, self.batches.ctx.rng.get_state())
        if self.group is not None:
            self.group.agree(snapshot)
        self.save(resumable, snapshot)

    def step(self, step: int, index: Tensor) -> Mapping[str, Tensor]:
        """One batch: draw, augment, learn, restore the constraints."""
        factor = self.terms.schedule.factor(step, self.terms.total_steps)
        for optimizer in self.state.optimizers.values():
            for group in optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])
                group["lr"] = group["initial_lr"] * group.get("lr_scale", 1.0) * factor
        for bound in self.bounds:
            bound.ctx.step, bound.ctx.progress = step, step / self.terms.total_steps
        batch = self.examples.batch(index)
        if self.channels_last and batch.x.ndim == 4:
            batch = batch.replace(x=batch.x.contiguous(memory_format=torch.channels_last))
        for bound in self.augment:
            batch = bound.method.augment(batch, bound.ctx)
        logs: Mapping[str, Tensor] = self.learner.method.step(self.state, batch, self.learner.ctx)
        self.constrain()
        return logs

    def check(self, losses: list[tuple[int, Tensor]], epoch: int, order: list[Tensor], resumable: Path) -> None:
        """Raises Diverged at the first loss that is not finite."""
        values = torch.stack([loss for _, loss in losses]).tolist()  # a GPU is waited for once
        bad = next((i for i, value in enumerate(values) if not math.isfinite(value)), None)
        if bad is None:
            return
        at, loss = losses[bad]
        first = order[at][:5].tolist()
        good = self.last_good(epoch, at, resumable)
        raise Diverged(
            f"loss is {float(loss)} at step {epoch * self.per_epoch + at} (epoch {epoch + 1}, batch {at + 1} of "
            f"{len(order)}, examples {first}…); {good}. {ADVICE}"
        )

    def last_good(self, epoch: int, at: int, resumable: Path) -> str:
        """The checkpoint from before the loss of a batch was lost, in words."""
        saved = resume_from(resumable)
        if saved is None:
            return "no checkpoint yet"
        if (saved["epoch"], saved["batch"]) == (epoch, at):
            return f"no good checkpoint: {resumable}, after epoch {epoch}, leads to it at once"
        return f"last good checkpoint: epoch {saved['epoch']} in {resumable}"

    def lr(self) -> float:
        """The learning rate now."""
        for optimizer in self.state.optimizers.values():
            return float(optimizer.param_groups[0]["lr"])
        return 0.0

    # what is kept

    def save(self, resumable: Path, snapshot: Mapping[str, Any]) -> None:
        """Writes the resumable checkpoint; of several processes one does."""
        if self.writes:
            save_checkpoint(resumable, snapshot)
        self.saved_at = time.monotonic()

    @contextlib.contextmanager
    def deployed(self) -> Iterator[nn.Module]:
        """The model with the weights that validation, checkpoints and the final model use (an average,
        where an `around` keeps one), constraints restored; the training's own weights come back."""
        changed: dict[str, Tensor] = {}
        for bound in self.terms.around:
            changed.update(bound.method.weights(self.state, bound.ctx) or {})
        model = self.state.model
        if not changed:
            yield model
            return
        live = {k: v.clone() for k, v in model.state_dict().items()}
        try:
            model.load_state_dict({**live, **changed})
            self.constrain()
            yield model
        finally:
            model.load_state_dict(live)

    def constrain(self) -> None:
        """Restores what earlier links demand of the weights."""
        for constraint in self.constraints:
            constraint()

    def keep(self, epoch: int) -> None:
        """Keeps this epoch's weights where the recipe asks for them."""
        wanted = self.job.spec["recipe"]["keep"]
        if self.writes and (epoch in wanted or "all" in wanted or ("last" in wanted and epoch == self.epochs)):
            folder = self.job.out / "checkpoints"
            folder.mkdir(parents=True, exist_ok=True)
            with self.deployed() as model:
                save_tensors(folder / f"epoch-{epoch:05d}.safetensors", model.state_dict())

    def validate(self) -> dict[str, float]:
        """The mean error on the split `validation`, where the data have one."""
        split = self.data.splits.get("validation")
        problem = registry.make("problems", self.data.spec.problem)
        if split is None or problem.samples:
            return {}
        with self.deployed() as model, torch.no_grad():
            training = model.training
            model.eval()
            errors = [
                problem.error(model(batch.x), batch).sum() for batch in (b.to(self.device) for b in split.batches(512))
            ]
            model.train(training)
        return {"validation_error": float(sum(errors)) / len(split)}

    def final(self, model: nn.Module) -> nn.Module:
        """The finished model."""
        if model is self.state.model:
            with self.deployed() as deployed:
                final = {k: v.clone() for k, v in deployed.state_dict().items()}
            model.load_state_dict(final)
        broken = [name for name, v in model.state_dict().items() if v.is_floating_point() and not v.isfinite().all()]
        if broken:  # the last update's loss is never computed
            raise Diverged(f"the trained weights of {broken[0]} are not finite: {ADVICE}")
        return model.eval()


def _lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Fused optimizers walk parameters and their state as flat memory: both must be laid out alike."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _constraints(model: nn.Module, card: ModelCard) -> list[Callable[[], None]]:
    found = []
    for step in card.links:
        constraint = step.method().constraint(model, step.record)
        if constraint is not None:
            found.append(constraint)
    return found


def initial_model(data: Data, recipe: Recipe, seed: int, folder: Path) -> tuple[nn.Module, ModelCard]:
    """A new model with its edits, and the card to rebuild it by. Seeds torch's global generator."""
    torch.manual_seed(seed_for(seed, "model"))
    method = recipe.one("model")
    ctx = Context(rng=torch.Generator().manual_seed(seed_for(seed, "init")), spec=data.spec, seed=seed)
    model = method.build(data.spec, ctx)
    edits = []
    for edit in recipe.many("edit"):
        record = edit.fit(model, data, ctx)
        model = edit.apply(model, record)
        edits.append(step_of(edit, record))
    learner = recipe.one("learner")
    if type(learner).apply is not Learner.apply:  # its network is another than the recipe's model
        record = learner.fit(model, data, ctx)
        model = learner.apply(model, record)
        edits.append(step_of(learner, record))
    _check_output(model, data, method.method_name())
    return model, ModelCard(
        spec=data.spec, model=step_of(method), edits=edits, preprocessing=load_steps(folder / "preprocessing")
    )


def _check_output(model: nn.Module, data: Data, name: str) -> None:
    """Raises BadInput where a model's predictions have not the shape that the data set's problem has."""
    problem = registry.make("problems", data.spec.problem)
    if problem.samples:
        return
    training = model.training
    with torch.no_grad():
        found = tuple(model.eval()(data.train.batch(slice(0, 2)).x).shape[1:])
    model.train(training)
    expected = problem.output(data.spec)
    if len(found) != len(expected) or any(e not in (n, -1) for n, e in zip(found, expected)):
        raise BadInput(
            f"train.model: {name} predicts {list(found)} for each example; {data.spec.problem} needs {list(expected)}"
        )


def _check_start(learner: Learner, card: ModelCard) -> None:
    """Raises BadInput where a learner that makes the network is to train on what another has made."""
    id = registry.method_id(learner)
    if type(learner).apply is not Learner.apply and id not in [step.id for step in card.edits]:
        raise BadInput(
            f"train.learner: {learner.method_name()} trains the networks that it makes; this model is another"
        )


def prepared(job: Job, group: Group | None = None) -> Training:
    """The training of a recipe, about to begin; one process's share of it where there is a group."""
    data = load_data(job.inputs["data"])
    recipe = Recipe(job.spec["recipe"])
    seed = int(job.spec["seed"])
    if "start" in job.inputs:
        torch.manual_seed(seed_for(seed, "model"))
        model, card = load_model(job.inputs["start"]), load_card(job.inputs["start"])
        _check_start(recipe.one("learner"), card)
    else:
        model, card = initial_model(data, recipe, seed, job.inputs["data"])
    return Training(job, data, recipe, card, model, group)


def train(job: Job) -> None:
    """Trains the model of a recipe on the data set `data`, from scratch or from the model `start`.

    Writes the model artifact with `history.csv` and the kept checkpoints. Raises Diverged where the loss
    stops being finite.
    """
    spec = job.spec["recipe"]
    several = spec["devices"] > 1 and spec["epochs"] > 0
    with ranks.group_of(job) if several else contextlib.nullcontext() as group:
        training = prepared(job, group)
        trained = training.run()
    save_model(job.out, training.card, trained.state_dict())
    columns = list(training.history[-1]) if training.history else ["epoch"]
    with open(job.out / "history.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(training.history)
