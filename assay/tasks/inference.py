"""How a run's models predict: by their own pass, or by a method of the slot `predict`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from assay.plugins.contract import Batch, DataSpec, NotAuditable
from assay.tasks.artifacts import Step, load_model, read_json
from assay.tasks.job import MODEL, context, method_of


@functools.lru_cache(maxsize=6)
def cached_model(folder: Path, device: str) -> nn.Module:
    """A model artifact, kept for the next cell of this process."""
    return load_model(folder).to(device)


@dataclass(frozen=True)
class Inference:
    """How a run's models predict: by a method of the slot `predict`, or by their own pass where that is None.

    `models` are the named models that the method may ask, each with its artifact's folder.
    """

    method: Any = None
    seed: int = 0
    models: tuple[tuple[str, Path], ...] = ()
    device: str = "cpu"

    @property
    def plain(self) -> bool:
        """Whether a prediction is the model's own pass."""
        return self.method is None

    @property
    def differentiable(self) -> bool:
        """Whether gradients pass through a prediction."""
        return self.method is None or "grad" not in self.method.card.drops

    def __call__(self, model: nn.Module, batch: Batch, spec: DataSpec) -> Tensor:
        """Predictions of a batch, with gradients where there are any."""
        model = network(model)
        if self.method is None:
            own: Tensor = model(batch.x)
            return own
        ctx = context(self.seed, self.method.method_name(), spec, torch.device(self.device))
        ctx.models = {name: cached_model(path, self.device).requires_grad_(False) for name, path in self.models}
        found: Tensor = self.method.predict(model, batch, ctx)
        return found

    def module(self, model: nn.Module, spec: DataSpec) -> nn.Module:
        """The model as attributions see it. Raises NotAuditable where the method leaves no gradient."""
        if not self.differentiable:
            raise NotAuditable(f"its predictions come from {self.method.method_name()}, which has no gradient")
        return network(model) if self.plain else Predicting(network(model), self, spec)

    def around(self, model: nn.Module, spec: DataSpec) -> Predicting | None:
        """The model within the method, as one module; None where there is no method."""
        return None if self.plain else Predicting(network(model), self, spec)


PLAIN = Inference()
"""A model's own pass."""

INFERENCE = "inference"
"""The folder beside a served model's files that says how it predicts, where that is a method's business."""


def stored_inference(folder: Path) -> Inference:
    """How the model served from an artifact folder predicts."""
    if not (folder / INFERENCE / "predict.json").exists():
        return Inference()
    told = read_json(folder / INFERENCE / "predict.json")
    named = tuple((name, folder / INFERENCE / name) for name in sorted(told["models"]))
    return Inference(Step(told["method"]["id"], told["method"]["params"]).method(), int(told["seed"]), named)


def inference_of(spec: Mapping[str, Any], inputs: Mapping[str, Path], device: torch.device) -> Inference:
    """How the models of a cell with this spec and these inputs predict."""
    if "predict" not in spec:
        return Inference()
    named = tuple((r.removeprefix(MODEL), path) for r, path in sorted(inputs.items()) if r.startswith(MODEL))
    return Inference(method_of(spec["predict"]), int(spec["seed"]), named, str(device))


class Predicting(nn.Module):
    """A model that predicts through a method. It is a view: submodules, parameters and buffers are the model's own,
    so that taps find them, and what is put in their place is used."""

    def __init__(self, model: nn.Module, inference: Inference, spec: DataSpec):
        super().__init__()
        self._modules, self._parameters, self._buffers = model._modules, model._parameters, model._buffers
        self._given = (model, inference, spec)  # in a tuple: the model is not one more submodule
        self.training = model.training

    def forward(self, x: Tensor) -> Tensor:
        """Inputs to predictions; draws depend on an input's place in the batch."""
        model, inference, spec = self._given
        return inference(model, Batch({"index": torch.arange(len(x), device=x.device), "x": x}), spec)


def network(model: nn.Module) -> nn.Module:
    """The network behind a model that predicts through a method; another model itself."""
    return model._given[0] if isinstance(model, Predicting) else model
