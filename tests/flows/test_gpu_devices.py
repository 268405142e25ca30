"""Training on several devices, on a machine with one GPU: the operations by NCCL in a group of one, and two processes
on that GPU, which talk by gloo. NCCL between two GPUs has no test here: that needs two."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from assay.plugins.contract import AssayError, Data, DataSpec, Split
from assay.tasks import ranks, training
from assay.tasks.artifacts import save_data
from assay.tasks.cells import recipe_spec
from assay.tasks.group import Group
from assay.tasks.job import Job, prepare_process
from assay.tasks.parallel import share
from assay.tasks.params import validate

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
GPU = torch.device("cuda")


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    """A group of one process that talks by NCCL."""
    prepare_process(0, 1)
    with ranks.joined(ranks.Place(0, 1, "nccl", str(tmp_path / "meeting")), GPU) as found:
        yield found


class Net(nn.Module):
    """Batch norm, dropout, a layer and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout2d(0.3), nn.Flatten(), nn.Dropout(0.3)
        )
        self.head = nn.Linear(4 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.layers(x))
        return found


def test_the_operations_by_nccl(group: Group) -> None:
    """Also in bf16, and in another layout."""
    torch.manual_seed(0)
    plain = Net().to(GPU)
    shared = copy.deepcopy(plain)
    share(shared, group)
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(9, 1, 8, 8, device=GPU).contiguous(memory_format=layout)
        found = []
        for model in (plain, shared):
            torch.manual_seed(1)
            output = model(x)
            loss = output.logsumexp(1).square().mean()
            found.append([output, *torch.autograd.grad(loss, list(model.parameters())), *model.buffers()])
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        torch.manual_seed(1)
        a = plain(x)
        torch.manual_seed(1)
        b = shared(x)
    assert a.dtype == b.dtype == torch.bfloat16
    torch.testing.assert_close(b.float(), a.float(), rtol=0.05, atol=0.05)


def test_all_take_the_first_ones_state(group: Group) -> None:
    weights = torch.randn(3, 2, 4, 4, device=GPU).contiguous(memory_format=torch.channels_last)
    before = weights.clone()
    group.agree({"model": {"w": weights}, "step": torch.zeros(()), "history": [{"loss": 1.0}]})
    assert torch.equal(weights, before)
    assert group.first_alone(lambda: 5) == 5


CHANGES: dict[str, dict[str, Any]] = {
    "mlp": {"model": {"name": "mlp", "hidden": [16]}, "around": ["sam", "ema"], "augment": ["mixup"]},
    "batch norm": {"model": {"name": "small_cnn", "width": 8}, "channels_last": True},
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES.keys())
def test_two_processes_on_one_gpu(changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers of one; an interrupted training goes on to much the same."""
    monkeypatch.setattr(ranks, "backend_for", lambda device, size: "gloo")
    rng = np.random.default_rng(0)
    splits = {n: Split({"x": rng.random((71, 1, 8, 8), dtype=np.float32), "y": np.arange(71) % 4}) for n in ("train",)}
    data = tmp_path / "data"
    data.mkdir()
    save_data(data, Data(DataSpec(shape=(1, 8, 8), classes=tuple("abcd")), splits))
    tree = {
        "objective": "cross_entropy",
        "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9},
        "batches": {"name": "shuffled", "size": 16},
        "epochs": 3,
        **changes,
    }

    def train(name: str, devices: int, progress: Callable[..., None] = lambda *a: None) -> dict[str, Tensor]:
        spec = recipe_spec(validate({"prepare": ["source/digits"], "train": {**tree, "devices": devices}}).train)
        (tmp_path / name / "artifact").mkdir(parents=True, exist_ok=True)
        prepare_process(0, 1)
        job = Job(
            {"recipe": spec, "seed": 0}, {"data": data}, tmp_path / name / "artifact", tmp_path / name, GPU,
            progress=progress,
        )  # fmt: skip
        training.train(job)
        return load_file(tmp_path / name / "artifact" / "model.safetensors")

    def stop(done: int, total: int, note: str) -> None:
        if done == 8:
            raise InterruptedError

    alone, shared = train("alone", 1), train("shared", 2)
    with pytest.raises(InterruptedError):
        train("killed", 2, stop)
    resumed = train("killed", 2)
    for name, value in alone.items():
        for other in (shared, resumed):
            far = float((other[name] - value).double().norm() / value.double().norm().clamp_min(1e-12))
            assert far < 1e-3, f"{name} differs by {far:.1e}"


def test_more_gpus_than_there_are() -> None:
    there = torch.cuda.device_count()
    with pytest.raises(AssayError, match=rf"train\.devices: {there + 1} GPUs are wanted, and this machine has {there}"):
        ranks.backend_for(GPU, there + 1)
