"""Every model artifact, after any chain, reloads in a new process to the same logits, without pickle, and its
ONNX export agrees with it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from assay.flows.session import Session, materialise, open_session
from assay.tasks import artifacts, compress, training
from assay.tasks.cells import Cell
from assay.tasks.compute import compute_one
from assay.tasks.export import export_onnx, session, session_options
from assay.tasks.status import needed, statuses

FINETUNE = {"name": "recover/finetune", "epochs": 1}
PRUNE = {"name": "prune/magnitude", "sparsity": 0.6}
SLIM = {"name": "prune/channels", "ratio": 0.5, "round_to": 4}
SVD = {"name": "factorize/svd", "by": "ratio", "keep": 0.5}
INT8 = {"name": "quantize/int8_static", "examples": 64}
CHAINS: dict[str, list[Any]] = {
    "pruned": [PRUNE, FINETUNE],
    "layers": [{**PRUNE, "scope": "layer"}],
    "slim": [SLIM, FINETUNE],
    "low": [SVD, FINETUNE],
    "int8": [INT8],
    "mixed": [SLIM, FINETUNE, PRUNE, SVD, FINETUNE, INT8],
}
RECIPES: dict[str, dict[str, Any]] = {
    "mlp": {"model": {"name": "mlp", "hidden": [24, 16]}, "keep": [0, 1, "last"]},
    "grownet": {"model": {"name": "mlp", "hidden": [24, 16]}, "learner": {"name": "grownet", "stages": 2}},
    "small_cnn": {"model": {"name": "small_cnn", "width": 8}, "around": ["ema"]},
    "resnet": {"model": {"name": "resnet", "depth": 8, "width_factor": 0.5}},
    "vit": {"model": {"name": "vit", "patch": 4, "dim": 16, "depth": 1, "heads": 2}},
}
VARIANTS = ["dense", *CHAINS]
LOADER = """
import json, pickle, sys
import numpy as np
import torch
from pathlib import Path
from assay.tasks.artifacts import checkpoints, load_checkpoint, load_model

def refused(*arguments, **options):
    raise AssertionError("pickle was used")

class Refused:
    __init__ = refused

def audit(event, arguments):
    if event.startswith("pickle."):
        refused()

sys.addaudithook(audit)
pickle.load = pickle.loads = pickle._load = pickle._loads = torch.load = refused
pickle.Unpickler = pickle._Unpickler = Refused
torch.set_num_threads(1)
root = Path(sys.argv[1])
found = {}
for folder in sorted(p for p in root.glob("*/*") if p.is_dir()):
    x = torch.from_numpy(np.load(folder.parent / "x.npy"))
    with torch.inference_mode():
        found["/".join(folder.parts[-2:])] = load_model(folder)(x).numpy()
        for name in checkpoints(folder):
            found["/".join([*folder.parts[-2:], name])] = load_checkpoint(folder, name)(x).numpy()
np.savez(root / "logits.npz", **found)
"""


def tree(recipe: dict[str, Any]) -> dict[str, Any]:
    """The params of one architecture with every chain."""
    return {
        "seed": 1,
        "device": "cpu",
        "prepare": ["source/digits", {"name": "transform/subset", "train": 192, "test": 64}, "transform/normalize"],
        "train": {"epochs": 2, "batches": {"name": "shuffled", "size": 32}, **recipe},
        "compress": CHAINS,
    }


class Saved:
    """Models as they were in the process that made them: artifact's key → logits."""

    def __init__(self) -> None:
        self.x = torch.zeros(0)
        self.logits: dict[str, np.ndarray] = {}

    def save(self, folder: Path, card: artifacts.ModelCard, state: Any) -> None:
        """In place of `save_model`: notes what the caller's own model says, then saves it."""
        caller = sys._getframe(1).f_locals
        model = caller["trained"] if "trained" in caller else caller["model"]
        with torch.inference_mode():
            self.logits[folder.parent.name] = model.eval()(self.x).numpy()
        artifacts.save_model(folder, card, state)


def compute(session: Session, cell: Cell) -> None:
    """Computes a cell in this process, and first the trainings that it asks for."""
    outcome = compute_one(cell, session.store, session.downloads, "test")
    for asked in outcome.pending:
        compute(session, Cell.from_json(asked))
    if outcome.pending:
        outcome = compute_one(cell, session.store, session.downloads, "test")
    assert outcome.status in ("done", "hit"), f"{outcome.message}\n{outcome.trace}"


class Models:
    """Copies of all model artifacts, away from their store; their logits when made and in a new process."""

    def __init__(self, root: Path, before: dict[str, np.ndarray], after: dict[str, np.ndarray]):
        self.root, self.before, self.after = root, before, after

    def x(self, name: str) -> np.ndarray:
        """The inputs of an architecture."""
        return np.load(self.root / name / "x.npy")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    project, root = tmp_path_factory.mktemp("reload"), tmp_path_factory.mktemp("models")
    before: dict[str, np.ndarray] = {}
    for name, recipe in RECIPES.items():
        found = open_session(tree(recipe), project=project)
        materialise(found)
        saved = Saved()
        saved.x = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training, "save_model", saved.save)
            patch.setattr(compress, "save_model", saved.save)
            for key in needed(found.plan, statuses(found.plan, found.store, {})):
                compute(found, found.plan.cells[key])
        (root / name).mkdir()
        np.save(root / name / "x.npy", saved.x.numpy())
        places = {"dense": found.plan.models["dense"]}
        for variant, chain in found.plan.chains.items():
            places |= {f"{variant}-{i}": ref for i, ref in enumerate(chain)}
        for label, ref in places.items():
            shutil.copytree(found.store.folder(ref.slot, ref.key), root / name / label)
            before[f"{name}/{label}"] = saved.logits[ref.key]
    shutil.rmtree(project)
    command = [sys.executable, "-c", LOADER, str(root)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(root / "logits.npz", allow_pickle=False) as archive:
        return Models(root, before, dict(archive))


def last(variant: str) -> str:
    """The artifact at the end of a variant's chain."""
    return variant if variant == "dense" else f"{variant}-{len(CHAINS[variant]) - 1}"


@pytest.mark.parametrize("name", RECIPES)
def test_same_logits_in_a_new_process(models: Models, name: str) -> None:
    """Every link's model, fp32 and the fake-quantised twin, to the bit."""
    links = [label for label in models.before if label.startswith(f"{name}/")]
    assert len(links) == 1 + sum(len(chain) for chain in CHAINS.values())
    for label in links:
        assert np.isfinite(models.before[label]).all()
        np.testing.assert_array_equal(models.after[label], models.before[label], err_msg=label)
    distinct = {models.after[f"{name}/{last(variant)}"].tobytes() for variant in VARIANTS}
    assert len(distinct) == len(VARIANTS)


def test_kept_checkpoints(models: Models) -> None:
    found = {label.rsplit("/", 1)[1]: v for label, v in models.after.items() if label.startswith("mlp/dense/")}
    assert len(found) == 3
    start, middle, end = (found[name] for name in sorted(found))
    np.testing.assert_array_equal(end, models.before["mlp/dense"])
    assert len({start.tobytes(), middle.tobytes(), end.tobytes()}) == 3


def test_nothing_but_tensors_and_text(models: Models) -> None:
    files = [path for path in models.root.rglob("*") if path.is_file() and path.parent != models.root]
    kinds = {path.suffix for path in files}
    assert kinds == {".npy", ".safetensors", ".json", ".csv"}
    assert {path.name for path in files if path.suffix == ".npy"} == {"x.npy"}
    for path in files:
        if path.suffix == ".json":
            assert str(models.root.parent) not in path.read_text(encoding="utf-8")
            json.loads(path.read_text(encoding="utf-8"))


def test_the_loader_notices_pickle(models: Models, tmp_path: Path) -> None:
    """The guard of these tests can fail."""
    shutil.copytree(models.root / "mlp" / "dense", tmp_path / "mlp" / "dense")
    np.save(tmp_path / "mlp" / "x.npy", np.array([{"a": Path("b")}], dtype=object), allow_pickle=True)
    loader = LOADER.replace('"x.npy")', '"x.npy", allow_pickle=True)')
    command = [sys.executable, "-c", loader, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "pickle was used" in done.stderr


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", RECIPES)
def test_export_agrees(models: Models, name: str, variant: str, tmp_path: Path) -> None:
    folder = models.root / name / last(variant)
    card = artifacts.load_card(folder)
    path = tmp_path / "model.onnx"
    export_onnx(artifacts.load_model(folder), card.spec, path)
    x, expected = models.x(name), models.after[f"{name}/{last(variant)}"]
    kernels = session(path, 1)(x)
    if "int8" not in card.gives:
        np.testing.assert_allclose(kernels, expected, atol=1e-4)
        return
    options = session_options(1)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    # A sum that differs in its last bit may round to the next code, and the layers after it see that.
    scale = np.abs(expected).max()
    assert np.median(np.abs(plain.run(None, {"x": x})[0] - expected)) <= 1e-3 * scale
    assert np.median(np.abs(kernels - expected)) <= 0.02 * scale
