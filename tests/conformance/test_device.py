"""Every method, and the frame, on a device that is not the CPU: one that is pretended, so that no GPU is needed.

What a GPU refuses the pretended device refuses too: tensors of two devices in one operation, numpy views, a CPU
generator's draws. Numbers must be the CPU's. The last test asks a real one; a whole run on it is in
tests/flows/test_gpu.py.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from assay.plugins import registry
from tests.conformance import elsewhere

HERE = Path(__file__).parent
WITHOUT = ("prepare/", "train/batches/", "train/schedule/", "problems/", "search/", "study/")  # they see no device
METHODS = [id for id in registry.index().entries if not id.startswith(WITHOUT)]
BROKEN = {
    "beside": "batch.x * torch.ones(batch.x.shape[1:])",
    "drawn": "batch.x * torch.rand(batch.x.shape[1:], generator=ctx.rng, device=batch.x.device)",
    "left": "batch.x.cpu()",
    "viewed": "torch.from_numpy(batch.x.detach().numpy()).to(batch.x.device)",
    "sound": "batch.x * torch.rand(batch.x.shape[1:], generator=ctx.rng).to(batch.x.device)",
}
METHOD = """
    import torch
    from assay.plugins.contract import Attribution, Card, Saliency

    class Broken(Saliency):
        '''A map.'''

        card = Card(title="A map")

        def attribute(self, model, batch, score, ctx):
            return Attribution(({expression}).sum(1))
"""


def answer(script: str, *arguments: str, site: Path | None = None) -> dict[str, Any]:
    """What a script of this folder prints, in a process of its own: the device is known to the whole process."""
    paths = [str(path) for path in (site, os.environ.get("PYTHONPATH")) if path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, str(HERE.parents[1])])}
    command = [sys.executable, str(HERE / script), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def methods() -> dict[str, Any]:
    """What went wrong, by method."""
    return answer("on_device.py", elsewhere.NAME)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run on the CPU and one on the device."""
    return answer("run_on_device.py", str(tmp_path_factory.mktemp("device")))


@pytest.mark.parametrize("id", METHODS)
def test_method(id: str, methods: dict[str, Any]) -> None:
    if methods[id].startswith("skipped"):
        pytest.skip(methods[id])
    assert methods[id] == ""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_every_method_on_a_gpu() -> None:
    found = answer("on_device.py", "cuda")
    assert set(METHODS) <= set(found)
    assert {id: text for id, text in found.items() if text and not text.startswith("skipped")} == {}


def test_a_run_has_the_numbers_of_the_cpu(runs: dict[str, Any]) -> None:
    assert set(runs["there"]) == set(runs["cpu"])
    assert len(runs["cpu"]) > 60
    for name, value in runs["cpu"].items():
        found = runs["there"][name]
        same = math.isclose(value, found, abs_tol=2e-3) if isinstance(value, float) else value == found
        assert same, f"{name}: {value} on the CPU, {found} on the device"


def test_an_interrupted_training_ends_with_the_same_weights(runs: dict[str, Any]) -> None:
    assert runs["resumed"]


def test_what_a_device_refuses_is_found(install: Callable[..., Path]) -> None:
    """The pretended device can fail a method, and fails no sound one."""
    files = {"fake_device/__init__.py": ""}
    files |= {f"fake_device/{name}.py": METHOD.format(expression=text) for name, text in BROKEN.items()}
    site = install("fake-device", {"attribute.saliency": "fake_device"}, files)
    ids = {name: f"attribute/saliency/{name}" for name in BROKEN}
    found = answer("on_device.py", elsewhere.NAME, *ids.values(), site=site)
    assert "one device" in found[ids["beside"]]
    assert "generator" in found[ids["drawn"]]
    assert "the answer is on cpu" in found[ids["left"]]
    assert "numpy" in found[ids["viewed"]]
    assert found[ids["sound"]] == ""
