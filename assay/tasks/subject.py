"""What audits and evaluators look at: a model artifact with its data, predictions and comparisons."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from assay.plugins import registry
from assay.plugins.contract import (
    Attribution,
    Batch,
    Context,
    Data,
    DataSpec,
    Objective,
    Predictor,
    Scorer,
    Subject,
)
from assay.tasks.artifacts import (
    ModelCard,
    checkpoints,
    load_card,
    load_data,
    load_steps,
    preprocess,
    trajectory,
)
from assay.tasks.export import export_onnx, session
from assay.tasks.inference import PLAIN, Inference, cached_model
from assay.tasks.job import seed_for

PREDICT_ROWS = 256


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


def loss_by(objective: Any) -> Callable[[Tensor, Batch], Tensor] | None:
    """An objective's loss of predictions (N,), None where the objective calls the model itself."""
    score: Callable[[Tensor, Batch], Tensor] = objective.score
    return score if type(objective).loss is Objective.loss else None


@functools.lru_cache(maxsize=8)
def cached_images(dense: Path, data: Path, count: int, seed: int, device: str, inference: Inference) -> Batch:
    """The audited part of the test split: a seeded draw, with the dense model's prediction as `target`."""
    test = cached_data(data).test
    order = np.random.default_rng(seed_for(seed, "images")).permutation(len(test))[:count]
    batch = test.batch(np.sort(order)).to(device)
    model = cached_model(dense, device)
    spec = load_card(dense).spec
    prediction = predict_rows(model, batch, spec, inference)
    return batch.replace(target=problem_of(spec).target(prediction).to(device))


def problem_of(spec: DataSpec) -> Any:
    """The problem of a data set."""
    return registry.make("problems", spec.problem)


def predict_rows(model: nn.Module, batch: Batch, spec: DataSpec, inference: Inference = PLAIN) -> Tensor:
    """Predictions on the CPU, without gradients, a bounded number of rows at a time."""
    guard = torch.inference_mode if inference.plain else torch.no_grad  # a method may need gradients inside
    with guard():
        rows = [batch.take(slice(i, i + PREDICT_ROWS)) for i in range(0, max(batch.size, 1), PREDICT_ROWS)]
        parts = [inference(model, part, spec).detach().cpu() for part in rows]
    return torch.cat(parts).clone()


def predictor(model: nn.Module, spec: DataSpec, inference: Inference) -> Predictor:
    """A model's predictions of a batch, wherever the model is."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    return lambda batch: predict_rows(model, batch.to(device), spec, inference)


def deployed(
    card: ModelCard, load: Callable[[], nn.Module], exported: Path | None = None, inference: Inference = PLAIN
) -> Predictor:
    """A model artifact's predictions as they are where it is deployed, on the CPU: of onnxruntime's kernels
    where it is int8 and predicts by its own pass, else of the module that `load` gives, on that module's device.

    `exported` is the artifact's ONNX file; an int8 model without one is exported when it is first asked.
    """
    if "int8" not in card.gives or not inference.plain:
        return predictor(load(), card.spec, inference)

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


def timed_calls(folder: Path, spec: DataSpec, inference: Inference, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """A model's predictions by a method as a function of inputs, on `threads` CPU threads."""
    predict = predictor(cached_model(folder, "cpu"), spec, replace(inference, device="cpu"))

    def call(x: np.ndarray) -> np.ndarray:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return predict(Batch({"index": torch.arange(len(x)), "x": torch.from_numpy(x)})).numpy()
        finally:
            torch.set_num_threads(before)

    return call


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
    inference: Inference = PLAIN,
    loss: Callable[[Tensor, Batch], Tensor] | None = None,
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
    runtime = None
    if exported is not None:
        runtime = partial(session, exported) if inference.plain else partial(timed_calls, folder, card.spec, inference)
    reference = None
    if inputs.get("dense", folder) != folder:
        dense = {"model": inputs["dense"], "data": inputs["data"]}
        reference = make_subject(dense, device, images, inference=inference, loss=loss)

    return Subject(
        model=model,
        predict=deployed(card, lambda: model, exported, inference),
        spec=card.spec,
        data=data,
        images=images,
        score=scorer(card.spec),
        loss=loss,
        reference=reference,
        peers=[cached_model(path, str(device)) for role, path in inputs.items() if role.startswith("peer:")],
        trajectory=(lambda: trajectory(folder)) if checkpoints(folder) else None,
        explain=explain,
        exported=exported,
        runtime=runtime,
        facts=card.facts,
        through=inference.around(model, card.spec),
    )


def explainer(
    method: Any, seed: int, spec: DataSpec, device: torch.device, inference: Inference = PLAIN
) -> Callable[[nn.Module, Batch], Attribution]:
    """A saliency method as a function of a model and a batch, with its own seeded draws each time."""
    score = scorer(spec)

    def explain(model: nn.Module, batch: Batch) -> Attribution:
        own = seed_for(seed, method.method_name())
        ctx = Context(rng=torch.Generator().manual_seed(own), spec=spec, seed=own, device=device)
        result: Attribution = method.attribute(inference.module(model, spec), batch, score, ctx)
        return result

    return explain
