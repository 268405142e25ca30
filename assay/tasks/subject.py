"""What audits and evaluators look at: a model artifact with its data, predictions and comparisons."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from assay.plugins import registry
from assay.plugins.contract import Attribution, Batch, Context, Data, DataSpec, Predictor, Scorer, Subject
from assay.tasks.artifacts import ModelCard, load_card, load_data, load_model, load_steps, preprocess, trajectory
from assay.tasks.export import export_onnx, session
from assay.tasks.job import seed_for

PREDICT_ROWS = 256


@functools.lru_cache(maxsize=6)
def cached_model(folder: Path, device: str) -> nn.Module:
    """A model artifact, kept for the next cell of this process."""
    return load_model(folder).to(device)


@functools.lru_cache(maxsize=4)
def cached_data(folder: Path) -> Data:
    """A data set artifact, kept for the next cell of this process."""
    return load_data(folder)


@functools.lru_cache(maxsize=4)
def as_served(folder: Path, model: Path) -> Data:
    """A further data set as a model sees it: through the records that the model's own data passed, unless
    the data set has passed some of its own."""
    data = cached_data(folder)
    return data if load_steps(folder / "preprocessing") else preprocess(data, load_card(model).preprocessing)


@functools.lru_cache(maxsize=8)
def cached_images(dense: Path, data: Path, count: int, seed: int, device: str) -> Batch:
    """The audited part of the test split: a seeded draw, with the dense model's prediction as `target`."""
    test = cached_data(data).test
    order = np.random.default_rng(seed_for(seed, "images")).permutation(len(test))[:count]
    batch = test.batch(np.sort(order)).to(device)
    model = cached_model(dense, device)
    spec = load_card(dense).spec
    prediction = predict_rows(model, batch)
    return batch.replace(target=problem_of(spec).target(prediction).to(device))


def problem_of(spec: DataSpec) -> Any:
    """The problem of a data set."""
    return registry.make("problems", spec.problem)


def predict_rows(model: nn.Module, batch: Batch) -> Tensor:
    """Predictions on the CPU, without gradients, a bounded number of rows at a time."""
    with torch.inference_mode():
        parts = [model(part).cpu() for part in batch.x.split(PREDICT_ROWS)]
    return torch.cat(parts).clone()


def deployed(card: ModelCard, load: Callable[[], nn.Module], exported: Path | None = None) -> Predictor:
    """A model artifact's predictions as they are where it is deployed, on the CPU: of onnxruntime's kernels
    where it is int8, else of the module that `load` gives, on that module's device.

    `exported` is the artifact's ONNX file; an int8 model without one is exported when it is first asked.
    """
    if "int8" not in card.gives:
        model = load()
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        return lambda batch: predict_rows(model, batch.to(device))

    @functools.cache
    def kernels() -> Callable[[np.ndarray], np.ndarray]:
        if exported is not None:
            return session(exported, 1)
        with tempfile.TemporaryDirectory() as folder:
            export_onnx(load(), card.spec, Path(folder) / "model.onnx")
            return session(Path(folder) / "model.onnx", 1)

    def predict(batch: Batch) -> Tensor:
        parts = [kernels()(part.cpu().numpy()) for part in batch.x.split(PREDICT_ROWS)]
        return torch.from_numpy(np.concatenate(parts))

    return predict


def scorer(spec: DataSpec) -> Scorer:
    """The score of a batch's `target`, as the problem defines it."""
    problem = problem_of(spec)

    def score(prediction: Tensor, batch: Batch) -> Tensor:
        result: Tensor = problem.score(prediction, batch.target)
        return result

    return score


def make_subject(
    inputs: Mapping[str, Path],
    device: torch.device,
    images: Batch | None = None,
    explain: Callable[[nn.Module, Batch], Attribution] | None = None,
) -> Subject:
    """The subject of a cell's inputs: `model`, `data`, maybe `exported`, `data:<name>`, `peer:<name>`, and
    `dense`, which becomes the reference."""
    folder = inputs["model"]
    card = load_card(folder)
    model = cached_model(folder, str(device))
    data = {"main": cached_data(inputs["data"])}
    for role, path in inputs.items():
        if role.startswith("data:"):
            data[role.removeprefix("data:")] = as_served(path, folder)
    exported = inputs["exported"] / "model.onnx" if "exported" in inputs else None
    reference = None
    if inputs.get("dense", folder) != folder:
        reference = make_subject({"model": inputs["dense"], "data": inputs["data"]}, device, images)
    return Subject(
        model=model,
        predict=deployed(card, lambda: model, exported),
        spec=card.spec,
        data=data,
        images=images,
        score=scorer(card.spec),
        reference=reference,
        peers=[cached_model(path, str(device)) for role, path in inputs.items() if role.startswith("peer:")],
        trajectory=lambda: trajectory(folder),
        explain=explain,
        exported=exported,
        runtime=(lambda threads: session(exported, threads)) if exported is not None else None,
        facts=card.facts,
    )


def explainer(
    method: Any, seed: int, spec: DataSpec, device: torch.device
) -> Callable[[nn.Module, Batch], Attribution]:
    """A saliency method as a function of a model and a batch, with its own seeded draws each time."""
    score = scorer(spec)

    def explain(model: nn.Module, batch: Batch) -> Attribution:
        own = seed_for(seed, method.method_name())
        ctx = Context(rng=torch.Generator().manual_seed(own), spec=spec, seed=own, device=device)
        result: Attribution = method.attribute(model, batch, score, ctx)
        return result

    return explain
