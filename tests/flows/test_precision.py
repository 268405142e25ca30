"""`precision: bf16` and `compile: true` on a small training: as accurate, reloadable, under the same names."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from assay.flows import api
from assay.plugins.contract import BadInput, patch, tap
from assay.tasks.artifacts import load_data, load_model
from assay.tasks.compiled import compile_calls

TREE: dict[str, Any] = {
    "seed": 0,
    "device": "cpu",
    "workers": 1,
    "prepare": ["source/digits", {"name": "transform/subset", "train": 700, "test": 400}],
    "train": {
        "model": {"name": "mlp", "hidden": [48]},
        "optimizer": {"name": "adamw", "lr": 0.01},
        "batches": {"name": "shuffled", "size": 64},  # the last of an epoch has 60
        "epochs": 8,
        "keep": [0, "last"],
    },
    "evaluate": ["accuracy/top1"],
}
CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="there is no C++ compiler: torch cannot compile"
)


@dataclass
class Trained:
    """A finished run: its model artifact, accuracy, and predictions of the test images."""

    folder: Path
    accuracy: float
    logits: Tensor


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One project for all runs."""
    return tmp_path_factory.mktemp("precision")


def train(project: Path, **changes: Any) -> Trained:
    """Trains in a worker process and reloads the model in this one."""
    tree = {**TREE, "train": {**TREE["train"], **changes}}
    with pytest.MonkeyPatch.context() as patch:  # kernels of this project, not of another test's
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(project / ".assay" / "cache" / "compiled"))
        result = api.run(tree, project=project, prefect=False, track=False)
    session = api.open_session(tree, project=project)
    model, data = (
        session.store.folder(at.slot, at.key) for at in (session.plan.models["dense"], session.plan.data["main"])
    )
    with torch.no_grad():
        logits = load_model(model)(load_data(data).test.batch(slice(None)).x)
    found = result.summary.find("dense", "accuracy/top1")
    assert found is not None
    return Trained(model, found.value, logits)


@pytest.fixture(scope="module")
def plain(project: Path) -> Trained:
    """In fp32, not compiled."""
    return train(project)


@pytest.fixture(scope="module")
def bf16(project: Path) -> Trained:
    """In bf16."""
    return train(project, precision="bf16")


@pytest.fixture(scope="module")
def compiled(project: Path) -> Trained:
    """Compiled."""
    return train(project, compile=True)


def kernels(project: Path) -> list[Path]:
    """The code that torch compiled."""
    return list((project / ".assay" / "cache" / "compiled").rglob("*.cpp"))


def names_and_types(folder: Path) -> dict[str, tuple[torch.dtype, torch.Size]]:
    """What the artifact and its checkpoints hold, by name."""
    files = [folder / "model.safetensors", *(folder / "checkpoints").glob("*.safetensors")]
    assert len(files) == 3
    found = [{name: (t.dtype, t.shape) for name, t in load_file(file).items()} for file in files]
    assert found[0] == found[1] == found[2]
    return found[0]


def test_bf16_is_as_accurate(plain: Trained, bf16: Trained) -> None:
    assert plain.accuracy > 0.85
    assert abs(bf16.accuracy - plain.accuracy) <= 0.03
    # Eight bits of mantissa: other weights, and much the same function.
    gap = (bf16.logits - plain.logits).abs()
    assert 1e-3 < float(gap.mean() / plain.logits.abs().mean()) < 0.1


def test_bf16_leaves_fp32_weights(plain: Trained, bf16: Trained) -> None:
    assert names_and_types(bf16.folder) == names_and_types(plain.folder)
    assert {dtype for dtype, _ in names_and_types(bf16.folder).values()} == {torch.float32}


@needs_compiler
def test_compiled_is_as_accurate(project: Path, plain: Trained, bf16: Trained) -> None:
    assert not kernels(project)
    compiled = train(project, compile=True)
    assert kernels(project)
    assert abs(compiled.accuracy - plain.accuracy) <= 0.01
    torch.testing.assert_close(compiled.logits, plain.logits, atol=0.05, rtol=0.01)


@needs_compiler
def test_compiled_has_the_same_names(plain: Trained, compiled: Trained) -> None:
    assert names_and_types(compiled.folder) == names_and_types(plain.folder)
    assert not any("_orig_mod" in name for name in names_and_types(compiled.folder))


def test_taps_and_patches_see_an_uncompiled_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled code passes hooks by that were registered after it was compiled."""
    calls = []

    def compiler(function: Callable[..., Any], dynamic: bool) -> Callable[..., Any]:
        return lambda *inputs: calls.append("compiled") or function(*inputs)

    monkeypatch.setattr(torch, "compile", compiler)
    model, x = nn.Sequential(nn.Linear(3, 2), nn.Tanh()), torch.ones(1, 3)
    monkeypatch.setattr(shutil, "which", str)  # nothing is compiled, so that no compiler is needed
    compile_calls(model, CPU)
    expected = model(x)
    with tap(model, ["0"]) as seen:
        torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(seen["0"].tanh(), expected)
    with patch(model, {"0": torch.zeros_like}):
        assert not model(x).any()
    assert calls == ["compiled"]
    assert model(x).any()
    assert calls == ["compiled"] * 2


def test_without_a_compiler_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/no/such/c++")
    with pytest.raises(BadInput, match=r"train\.compile: true needs a C\+\+ compiler .*'/no/such/c\+\+'.*false"):
        compile_calls(nn.Linear(2, 2), CPU)
