"""What the frame would give a method beside data and model: subjects, a lab, terms, exported files."""

from __future__ import annotations

import contextlib
import copy
import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from assay.plugins.contract import (
    Ask,
    Attribution,
    Batch,
    Card,
    Failed,
    Number,
    Objective,
    Optimizer,
    Predictor,
    Result,
    Schedule,
    Subject,
    Trained,
)
from assay.plugins.testing.base import Case, Skipped, context
from assay.plugins.testing.worlds import World, all_worlds, train_steps

ROLES = ("teacher", "mim_teacher", "guide", "judge")
"""Roles of the named models that methods are given."""


class TinyObjective(Objective):
    """What the world's model is trained on."""

    card = Card(title="The suite's objective")
    world: str

    def score(self, output: Tensor, batch: Batch) -> Tensor:
        return next(w for w in all_worlds() if w.name == self.world).loss(output, batch)


class TinyOptimizer(Optimizer):
    """Gradient descent with momentum."""

    card = Card(title="The suite's optimizer")

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, lr=self.lr, momentum=0.9)


class TinySchedule(Schedule):
    """No change."""

    card = Card(title="The suite's schedule")

    def factor(self, step: int, total: int) -> float:
        return 1.0


def explain(world: World) -> Callable[[nn.Module, Batch], Attribution]:
    """The gradient's magnitude, of images the largest over the channels, as a saliency to audit."""

    def gradient(model: nn.Module, batch: Batch) -> Attribution:
        x = batch.x.detach().requires_grad_()
        with torch.enable_grad():
            total = world.score(model(x), batch).sum()
            values = torch.autograd.grad(total, x)[0]
        return Attribution(values.abs().amax(1) if values.ndim == 4 else values.abs())

    return gradient


def subject(case: Case, world: World, model: nn.Module, images: Batch | None, exported: Path | None) -> Subject:
    """All that the frame gives: a reference, peers, a trajectory, and a further data set under each name
    that a parameter of the method may mean."""

    def predictor(module: nn.Module) -> Predictor:
        def predict(batch: Batch) -> Tensor:
            with torch.no_grad():
                out: Tensor = module(batch.x)
            return out

        return predict

    names = [value for value in case.method.model_dump().values() if isinstance(value, str) and value]
    dense, data = world.model(), {**dict.fromkeys(names, world.other), "main": world.data}
    return Subject(
        model=model,
        predict=predictor(model),
        spec=world.data.spec,
        data=data,
        images=images,
        score=world.score,
        loss=world.loss,
        reference=Subject(dense, predictor(dense), world.data.spec, data, images, world.score),
        peers=(world.model(1), world.model(2)),
        trajectory=lambda: iter([("epoch-00000", world.fresh(0)), ("epoch-00001", world.model())]),
        explain=explain(world) if images is not None else None,
        exported=exported,
        runtime=(lambda threads: runtime(exported, threads)) if exported else None,
    )


def export(model: nn.Module, x: Tensor, path: Path) -> None:
    """Writes the model as ONNX with a free batch size."""
    axes = {"x": {0: "n"}, "y": {0: "n"}}
    torch.onnx.export(
        model, (x,), str(path), dynamo=False, opset_version=17, input_names=["x"], output_names=["y"], dynamic_axes=axes
    )


def runtime(path: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """The exported model in onnxruntime."""
    try:
        import onnxruntime
    except ImportError as error:
        raise Skipped("onnxruntime is not installed") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def call(x: np.ndarray) -> np.ndarray:
        out: np.ndarray = session.run(None, {"x": x})[0]
        return out

    return call


@functools.lru_cache(maxsize=8)
def exported_bytes(world: World) -> bytes:
    """The world's model as an ONNX file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        export(world.model(), world.images().x, path)
        return path.read_bytes()


@contextlib.contextmanager
def exported(case: Case, world: World) -> Iterator[Path | None]:
    """The file of the exported model where the card needs one, else None."""
    if "runtime" not in case.cls.card.needs:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        path.write_bytes(exported_bytes(world))
        yield path


class TinyLab:
    """A lab whose trainings are a few steps of a plain loop, each seed its own."""

    def __init__(self, world: World, parent: nn.Module | None = None):
        self.world = world
        self.data = world.data
        self.loss = world.loss
        self.parent = parent
        self.asked: list[list[Ask]] = []
        self.recipe: Mapping[str, Any] = {
            "model": {"id": "train/model/tiny", "params": {}},
            "optimizer": {"id": "train/optimizer/tiny", "params": {"lr": 0.05}},
            "epochs": 1,
        }

    def new_model(self, seed: int) -> nn.Module:
        """An untrained model."""
        return self.world.fresh(seed)

    def train(self, asks: Sequence[Ask]) -> list[Trained]:
        """A short training each, from the parent where it is asked for."""
        self.asked.append(list(asks))
        return [self._train(ask) for ask in asks]

    def attempt(self, asks: Sequence[Ask]) -> list[Trained | Failed]:
        """A short training each; none fails."""
        return [*self.train(asks)]

    def measure(
        self, asks: Sequence[Ask], evaluators: Sequence[str | Mapping[str, Any]]
    ) -> list[list[Result | Failed]]:
        """The mean loss of each ask's model, whatever was asked for."""
        return [[self.evaluate(trained.model, each) for each in evaluators] for trained in self.train(asks)]

    def evaluate(self, model: nn.Module, evaluator: str | Mapping[str, Any]) -> Result:
        """The mean loss on the test split, whatever was asked for."""
        batch = self.data.test.batch(slice(0, len(self.data.test)))
        with torch.no_grad():
            losses = self.world.loss(model(batch.x), batch).double()
        return Result({"loss": Number(float(losses.mean()), "", -1, "mean loss", losses.numpy())})

    def _train(self, ask: Ask) -> Trained:
        start = self.parent if ask.start == "parent" and self.parent is not None else self.world.fresh(ask.seed or 0)
        model = copy.deepcopy(start).requires_grad_(True)
        train_steps(model, self.world, ask.seed or 0, steps=2)
        first = copy.deepcopy(start)
        kept = {"epoch-00000": first, "epoch-00001": model}
        history = [{"epoch": 1, "loss": 1.0, "validation_error": 0.5}]
        return Trained(model, history, lambda name: copy.deepcopy(kept[name]), list(kept), self.data)


@functools.lru_cache(maxsize=8)
def named_models(world: World) -> Mapping[str, nn.Module]:
    """Frozen models under the roles that a recipe may give; shared, as a method must not change them."""
    return {role: world.model(3).requires_grad_(False) for role in ROLES}


def plain_context(world: World, seed: int = 0, **more: Any) -> Any:
    """A context over the world's data with the named models."""
    return context(world.data.spec, seed, models=named_models(world), **more)
