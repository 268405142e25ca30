"""A training on two devices: the numbers of one, resumed to the same bytes; processes that die, none left behind."""

from __future__ import annotations

import copy
import csv
import json
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from assay.flows.executor import Executor
from assay.plugins.contract import Data, DataSpec, Split
from assay.tasks import training
from assay.tasks.artifacts import save_data
from assay.tasks.cells import Cell, Env, recipe_spec
from assay.tasks.job import Job, prepare_process
from assay.tasks.params import validate
from assay.tasks.store import Store

pytestmark = pytest.mark.server

EPOCHS, BATCH, EXAMPLES = 3, 16, 71  # a last batch of 7: three and four examples
SGD = {"name": "sgd", "lr": 0.05, "momentum": 0.9}
CNN = {"name": "small_cnn", "width": 8}
# Adam divides a gradient by its own size: where the loss does not depend on a weight (a bias before a normalisation,
# a key's bias), that is rounding alone, and steps of another order follow. So those models learn by SGD here.
RECIPES: dict[str, dict[str, Any]] = {
    "adamw, sam and ema": {"around": ["sam", "ema"]},
    "batch norm, crops": {"model": CNN, "optimizer": SGD, "augment": ["crop_flip"]},
    "mixup and causirl": {"augment": ["mixup"], "penalty": ["causirl"], "optimizer": SGD},
    "adversarial, clipped": {"around": ["clip", {"name": "adversarial", "steps": 2}], "optimizer": SGD},
    "second derivatives": {"optimizer": {"name": "adahessian", "lr": 0.01, "eps": 0.01}},
    "bank": {"objective": "instance_discrimination", "optimizer": SGD},
}


class Killed(Exception):
    """Stands for the process's end."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set artifact of random images."""
    rng = np.random.default_rng(0)
    splits = {
        name: Split({"x": rng.random((n, 1, 8, 8), dtype=np.float32), "y": np.arange(n) % 4, "group": np.arange(n) % 2})
        for name, n in (("train", EXAMPLES), ("validation", 21))
    }
    folder = tmp_path_factory.mktemp("data")
    save_data(folder, Data(DataSpec(shape=(1, 8, 8), classes=tuple("abcd")), splits))
    return folder


def recipe(changes: dict[str, Any], devices: int) -> dict[str, Any]:
    """A recipe as it stands in a cell's spec."""
    train = {
        "model": {"name": "mlp", "hidden": [8]},
        "objective": "cross_entropy",
        "batches": {"name": "shuffled", "size": BATCH},
        "optimizer": {"name": "adamw", "lr": 0.01},
        "epochs": EPOCHS,
        "keep": [1, "last"],
        "devices": devices,
        **changes,
    }
    problem = "representation" if train["objective"] == "instance_discrimination" else "classification"
    steps = ["source/digits", *(["transform/representation"] if problem == "representation" else [])]
    return recipe_spec(validate({"prepare": steps, "train": train}).train, problem)


def train(
    folder: Path, data: Path, spec: dict[str, Any], progress: Callable[[int], object] = lambda done: None
) -> Path:
    """Trains, or goes on, and returns the artifact."""
    out = folder / "artifact"
    out.mkdir(parents=True, exist_ok=True)
    prepare_process(0, 1)
    torch.randn(random.Random(str(folder)).randrange(99))  # no process finds the global generator as another
    job = Job(
        {"recipe": spec, "seed": 0}, {"data": data}, out, folder, progress=lambda done, total, note: progress(done)
    )
    training.train(job)
    return out


def history(out: Path) -> np.ndarray:
    """Every number of the history."""
    with open(out / "history.csv", newline="", encoding="utf-8") as file:
        return np.array([[float(v) for v in row.values()] for row in csv.DictReader(file)])


def far(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest relative difference of a tensor."""
    assert list(a) == list(b)
    return max(float((a[k] - b[k]).double().norm() / a[k].double().norm().clamp_min(1e-12)) for k in a)


@pytest.mark.parametrize("changes", RECIPES.values(), ids=RECIPES.keys())
def test_the_numbers_of_one_process(changes: dict[str, Any], data: Path, tmp_path: Path) -> None:
    alone = train(tmp_path / "alone", data, recipe(changes, 1))
    shared = train(tmp_path / "shared", data, recipe(changes, 2))
    assert np.allclose(history(shared), history(alone), rtol=1e-5, atol=0)
    for name in ("model.safetensors", "checkpoints/epoch-00001.safetensors"):
        assert far(load_file(alone / name), load_file(shared / name)) < 1e-5, name


def test_three_processes(data: Path, tmp_path: Path) -> None:
    changes = {"model": CNN, "optimizer": SGD}
    alone, shared = (train(tmp_path / str(n), data, recipe(changes, n)) for n in (1, 3))
    assert np.allclose(history(shared), history(alone), rtol=1e-5, atol=0)
    assert far(load_file(alone / "model.safetensors"), load_file(shared / "model.safetensors")) < 1e-5


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of an artifact."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("seconds", [-1.0, 1e9], ids=["checkpoint at every step", "checkpoint at every epoch"])
def test_resumed_to_the_same_bytes(seconds: float, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through batch norm's statistics, EMA's own module and the draws of mixup and crops."""
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", seconds)
    spec = recipe({"model": CNN, "around": ["sam", "ema"], "augment": ["crop_flip", "mixup"]}, 2)
    whole = contents(train(tmp_path / "whole", data, spec))

    def stop(at: int) -> Callable[[int], None]:
        def progress(done: int) -> None:
            if done == at:
                raise Killed

        return progress

    for at in (7, 11):
        with pytest.raises(Killed):
            train(tmp_path / "killed", data, spec, stop(at))
        assert (tmp_path / "killed" / "resume.safetensors").exists()
    assert contents(train(tmp_path / "killed", data, spec)) == whole
    assert not torch.distributed.is_initialized()


# runs


PARAMS = {
    "seed": 0,
    "device": "cpu",
    "workers": 2,
    "prepare": ["source/digits", {"name": "transform/subset", "train": 300, "test": 120}],
    "train": {
        "model": {"name": "mlp", "hidden": [64]},
        "optimizer": {"name": "adamw", "lr": 0.003},
        "epochs": 150,
        "devices": 2,
    },
    "evaluate": ["accuracy/top1"],
}


def others(run: Any) -> list[int]:
    """The processes beside a run's workers."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent in run.workers() and b"assay.tasks.rank" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except (OSError, ValueError, IndexError):
            continue
    return found


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def learning(run: Any) -> bool:
    """Whether a training has written a checkpoint that its next process has not used up."""
    return any(run.store.root.glob("work/*/resume.safetensors"))


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An uninterrupted run."""
    from tests.reliability.conftest import make_home

    folder = tmp_path_factory.mktemp("expected")
    home = make_home(folder / "home", folder, params=PARAMS)
    finished = home.run()
    assert finished.code == 0, finished.said
    return home, finished


def test_a_process_that_dies(homes: Callable[..., Any], expected: Any, until: Callable[..., Any]) -> None:
    """All end, and the training is computed on from its checkpoint, to the same bytes."""
    home = homes("home", params=PARAMS)
    with home.start() as run:
        until(lambda: learning(run), "the first checkpoint")
        [pid] = until(lambda: others(run), "the other process")
        os.kill(pid, signal.SIGKILL)
        [next_one] = until(lambda: [p for p in others(run) if p != pid], "another in its place")
        finished = run.end()
    assert finished.code == 0, finished.said
    assert "Traceback" not in finished.said
    assert home.contents() == expected[0].contents()
    assert finished.rows == expected[1].rows
    assert gone(next_one)


def test_a_process_that_dies_again_and_again(homes: Callable[..., Any], until: Callable[..., Any]) -> None:
    slow = copy.deepcopy(PARAMS)
    slow["train"]["epochs"] = 100_000  # type: ignore[index]
    home = homes("home", params=slow)
    killed: set[int] = set()
    with home.start() as run:

        def kill() -> bool:
            for pid in set(others(run)) - killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
            return run.process.poll() is not None

        until(kill, "the run's end")
        finished = run.end()
    assert finished.code == 1
    wanted = (
        "train dense: its process died 4 times, the last time by SIGKILL (the system does this where memory runs out)"
    )
    assert f"{wanted}: process 2 of 2" in finished.said
    assert "Traceback" not in finished.said
    assert len(killed) == 4


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_none_is_left_behind(number: int, homes: Callable[..., Any], until: Callable[..., Any], expected: Any) -> None:
    home = homes("home", params=PARAMS)
    with home.start() as run:
        until(lambda: learning(run), "the first checkpoint")
        processes = until(lambda: others(run), "the other process")
        run.signal(number)
        assert run.end().code in (-signal.SIGKILL, 130)
        until(lambda: all(map(gone, processes)), "the other process to end", 20)
    if number == signal.SIGKILL:
        finished = home.run()
        assert finished.code == 0, finished.said
        assert home.contents() == expected[0].contents()


# places


STUB = """
import json, time

def work(job):
    begun = time.time()
    time.sleep(0.5)
    (job.out / "times.json").write_text(json.dumps([begun, time.time()]))
"""


def cell(name: str, devices: int) -> Cell:
    """A cell that notes when it computes."""
    spec = {"recipe": {"devices": devices}}
    return Cell("train", "train", name, "device_stub:work", spec, {}, name, {}, name, env=Env("cpu", 1, "."))


@pytest.mark.parametrize(("workers", "devices"), [(3, 2), (2, 2), (1, 2)])
def test_a_training_takes_a_place_for_each_device(
    workers: int, devices: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "device_stub.py").write_text(STUB)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    sizes = {"a": 1, "b": devices, "c": 1, "d": devices, "e": 1}
    with Executor(Store(tmp_path / "store"), tmp_path, workers, 1, "a test") as executor:
        executor.warm(workers)
        threads = [threading.Thread(target=executor.run, args=([cell(n, size)],)) for n, size in sizes.items()]
        for thread in threads:
            thread.start()
            time.sleep(0.02)
        for thread in threads:
            thread.join(60)
        assert executor.computed == len(sizes)
        folders = {name: executor.store.folder("train", name) for name in sizes}
    times = {name: json.loads((folder / "times.json").read_text()) for name, folder in folders.items()}
    taken = [sum(sizes[n] for n, (begin, end) in times.items() if begin <= at < end) for at, _ in times.values()]
    assert max(taken) <= max(workers, devices)
