"""A run on a real GPU: `device: auto` takes it, and its numbers are the CPU's within float32's and bf16's error.

The faults that any device but the CPU would show are looked for without one, in tests/conformance/test_device.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from assay.flows import api
from assay.tasks import training
from assay.tasks.artifacts import load_attribution, load_data, load_model
from assay.tasks.job import Job, prepare_process
from assay.tasks.summary import Row

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
GPU = "cuda"
TREE: dict[str, Any] = {
    "seed": 0,
    "workers": 1,
    "prepare": ["source/digits", {"name": "transform/subset", "train": 800, "test": 300}],
    "train": {
        "model": {"name": "small_cnn", "width": 16},
        "optimizer": {"name": "adamw", "lr": 0.01},
        "schedule": "cosine",
        "batches": {"name": "shuffled", "size": 64},
        "epochs": 12,
    },
    "compress": {
        "pruned": [{"name": "prune/magnitude", "sparsity": 0.5}, {"name": "recover/finetune", "epochs": 1}],
        "int8": [{"name": "quantize/int8_static", "examples": 128}],
    },
    "attribute": {
        "saliency": ["gradient", {"name": "integrated_gradients", "steps": 8}],
        "agreement": ["rank"],
        "audit": ["deletion"],
        "images": 64,
    },
    "evaluate": ["accuracy/top1", "calibration/ece"],
}


@dataclass
class Done:
    """A finished run on one device."""

    session: api.Session
    rows: list[Row]

    def folder(self, model: str) -> Path:
        """A model's artifact."""
        ref = self.session.plan.models[model]
        return self.session.store.folder(ref.slot, ref.key)

    def images(self) -> Tensor:
        """The test images."""
        ref = self.session.plan.data["main"]
        return load_data(self.session.store.folder(ref.slot, ref.key)).test.batch(slice(None)).x

    def maps(self, model: str, saliency: str) -> Tensor:
        """A model's attribution maps."""
        ref = self.session.plan.saliency[model, saliency]
        return load_attribution(self.session.store.folder(ref.slot, ref.key)).values

    def accuracy(self, model: str) -> float:
        """A model's top-1 accuracy."""
        return next(row.value for row in self.rows if (row.model, row.field) == (model, "top1"))


def run(folder: Path, device: str, **train: Any) -> Done:
    """The run in worker processes, as `assay run` computes it, without servers."""
    tree = {**TREE, "device": device, "train": {**TREE["train"], **train}}
    result = api.run(tree, project=folder, prefect=False, track=False)
    return Done(api.open_session(tree, project=folder), list(result.summary.rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One project for all runs."""
    return tmp_path_factory.mktemp("gpu")


@pytest.fixture(scope="module")
def gpu(folder: Path) -> Done:
    """Where `auto` leads."""
    return run(folder, "auto")


@pytest.fixture(scope="module")
def cpu(folder: Path) -> Done:
    """The same on the CPU."""
    return run(folder, "cpu")


def close(a: Tensor, b: Tensor, share: float) -> bool:
    """Whether two tensors differ by at most this share of the largest value."""
    return float((a - b).abs().max()) <= share * float(b.abs().max())


def test_auto_plans_with_cuda(gpu: Done, cpu: Done) -> None:
    assert {cell.env.device for cell in gpu.session.plan.cells.values()} == {GPU}
    trainings = ("dense", "pruned", "int8")
    assert not {gpu.session.plan.models[m].key for m in trainings} & {cpu.session.plan.models[m].key for m in trainings}


def test_every_cell_is_computed(gpu: Done, cpu: Done) -> None:
    assert [(r.model, r.saliency, r.method, r.field) for r in gpu.rows] == [
        (r.model, r.saliency, r.method, r.field) for r in cpu.rows
    ]
    assert all(row.reason or np.isfinite(row.value) for row in gpu.rows)
    assert gpu.accuracy("dense") > 0.9


def test_the_training_is_the_cpus(gpu: Done, cpu: Done) -> None:
    """The same batches from the same start: rounding alone tells the two apart."""
    first, last = ([load_history(done)[i]["loss"] for done in (gpu, cpu)] for i in (0, -1))
    assert first[0] == pytest.approx(first[1], rel=0.02)
    assert last[0] == pytest.approx(last[1], rel=0.3)
    for model in ("dense", "pruned", "int8"):
        assert abs(gpu.accuracy(model) - cpu.accuracy(model)) <= 0.02


def load_history(done: Done) -> list[dict[str, float]]:
    """The dense training's history."""
    lines = (done.folder("dense") / "history.csv").read_text(encoding="utf-8").splitlines()
    names = lines[0].split(",")
    return [dict(zip(names, map(float, line.split(",")), strict=True)) for line in lines[1:]]


@pytest.mark.parametrize("model", ["dense", "pruned", "int8"])
def test_one_model_has_the_same_logits_on_both(gpu: Done, model: str) -> None:
    x = gpu.images()
    prepare_process(0, 1)
    loaded = load_model(gpu.folder(model))
    with torch.no_grad():
        on_cpu, on_gpu = loaded(x), loaded.to(GPU)(x.to(GPU)).cpu()
    # A value at the edge of two int8 codes may round to the other one.
    assert close(on_gpu, on_cpu, 0.05 if model == "int8" else 1e-4)
    assert float((on_gpu - on_cpu).abs().median()) <= 1e-4 * float(on_cpu.abs().max())


def test_maps_and_numbers_of_one_model_are_the_same_on_both(gpu: Done, folder: Path) -> None:
    """The GPU's dense model, explained, audited and evaluated on the CPU."""
    from assay.plugins import registry
    from assay.plugins.contract import Batch, Result
    from assay.tasks.job import context
    from assay.tasks.subject import PLAIN, cached_images, explainer, make_subject

    ref = gpu.session.plan.data["main"]
    data = gpu.session.store.folder(ref.slot, ref.key)
    inputs = {"model": gpu.folder("dense"), "dense": gpu.folder("dense"), "data": data}
    prepare_process(0, 1)

    def answers(device: torch.device) -> tuple[dict[str, Tensor], dict[str, Result]]:
        images: Batch = cached_images(inputs["dense"], data, 64, 0, str(device), PLAIN)
        subject = make_subject(inputs, device, images)
        maps, results = {}, {}
        for name in ("gradient", "integrated_gradients", "smooth_grad", "grad_cam"):
            explain = explainer(registry.make("attribute/saliency", name, "t"), 0, subject.spec, device)
            found = explain(subject.model, images)
            assert found.values.device.type == device.type
            maps[name] = found.values.cpu()
            audit = registry.make("attribute/audit", "deletion", "t")
            results[f"deletion {name}"] = audit.audit(subject, found, context(0, "deletion", subject.spec, device))
        for id in ("accuracy/top1", "calibration/ece", {"name": "robustness/pgd", "eps": 0.05}):
            method = registry.make("evaluate", id, "t")
            results[str(id)] = method.evaluate(subject, context(0, method.method_name(), subject.spec, device))
        return maps, results

    there, here = answers(torch.device(GPU)), answers(torch.device("cpu"))
    for name, values in here[0].items():
        assert close(there[0][name], values, 1e-2), name
    for name, result in here[1].items():
        for field, number in result.numbers.items():
            assert there[1][name].numbers[field].value == pytest.approx(number.value, abs=0.01), f"{name} {field}"


def test_bf16_trains(gpu: Done, folder: Path) -> None:
    bf16 = run(folder, "auto", precision="bf16")
    assert bf16.accuracy("dense") >= gpu.accuracy("dense") - 0.05
    weights = load_file(bf16.folder("dense") / "model.safetensors")
    assert not {value.dtype for value in weights.values()} & {torch.bfloat16, torch.float16}


def test_compiled_trains(gpu: Done, folder: Path) -> None:
    compiled = run(folder, "auto", compile=True, channels_last=True)
    assert compiled.accuracy("dense") >= gpu.accuracy("dense") - 0.05
    names = [list(load_file(done.folder("dense") / "model.safetensors")) for done in (compiled, gpu)]
    assert names[0] == names[1]


class Killed(Exception):
    """Stands for the process's end."""


def test_an_interrupted_training_goes_on(gpu: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through EMA's own module, mixup's draws and the GPU's generator, to the same weights where its kernels are
    deterministic."""
    from assay.tasks.askable import effective
    from assay.tasks.cells import recipe_spec
    from assay.tasks.params import validate

    train = {**TREE["train"], "around": ["ema"], "augment": ["mixup"], "epochs": 3}
    params = validate({"prepare": ["source/digits"], "train": train})
    spec = {"recipe": recipe_spec(effective(params)[0].train), "seed": 0}
    ref = gpu.session.plan.data["main"]
    inputs = {"data": gpu.session.store.folder(ref.slot, ref.key)}
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)

    begun: list[int] = []

    def share(folder: Path, stop: int | None) -> dict[str, Tensor]:
        steps: list[int] = []

        def progress(done: int, total: int, note: str) -> None:
            if not steps:
                begun.append(done)
            steps.append(done)
            if done == stop:
                raise Killed

        (folder / "artifact").mkdir(parents=True, exist_ok=True)
        prepare_process(0, 1)
        torch.randn(5, device=GPU)  # no process finds the generators as another
        training.train(Job(spec, inputs, folder / "artifact", folder, torch.device(GPU), progress=progress))
        return load_file(folder / "artifact" / "model.safetensors")

    whole = share(tmp_path / "whole", None)
    for stop in (5, 17):
        with pytest.raises(Killed):
            share(tmp_path / "killed", stop)
    resumed = share(tmp_path / "killed", None)
    assert begun == [1, 1, 5, 17]  # the step at which it was killed was not in the checkpoint yet
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name


def test_a_checkpoint_keeps_where_its_tensors_were(tmp_path: Path) -> None:
    from assay.tasks.checkpoint import load_checkpoint, save_checkpoint

    value = {"there": torch.arange(3, device=GPU), "here": torch.arange(3)}
    save_checkpoint(tmp_path / "c.safetensors", value)
    found = load_checkpoint(tmp_path / "c.safetensors", torch.device(GPU))
    assert (found["there"].device.type, found["here"].device.type) == (GPU, "cpu")
    assert json.dumps(found["there"].tolist()) == "[0, 1, 2]"


def test_float32_is_float32() -> None:
    """TensorFloat-32 would keep ten bits of a product's factors."""
    prepare_process(0, 1)
    x, w = torch.randn(8, 64, 16, 16), torch.randn(32, 64, 3, 3)
    exact = torch.nn.functional.conv2d(x.double(), w.double()).float()
    there = torch.nn.functional.conv2d(x.to(GPU), w.to(GPU)).cpu()
    assert close(there, exact, 1e-5)
    a = torch.randn(64, 64)
    assert close((a.to(GPU) @ a.to(GPU)).cpu(), (a.double() @ a.double()).float(), 1e-5)
