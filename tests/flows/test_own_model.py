"""A user's own network and weights: what a run makes of them, what is refused, and the example as a user runs it."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import nn

import assay
from assay.flows import cli
from assay.flows.record import dependencies_note
from assay.plugins.contract import AssayError
from assay.tasks import elsewhere
from assay.tasks.params import read
from assay.tasks.plan import Plan, make_plan

ROOT = Path(__file__).parents[2]
NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, spec, width=32):
        super().__init__()
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU())
        self.fc = nn.Linear(width, spec.n_outputs)

    def forward(self, x):
        return self.fc(self.backbone(x))

def number(spec):
    return 3

def wide(spec):
    model = Net(spec)
    model.fc = nn.Linear(32, 7)
    return model
"""


@functools.cache
def trained() -> dict[str, torch.Tensor]:
    """A state dict of `Net` that knows some digits."""
    torch.manual_seed(0)
    images, labels = map(torch.as_tensor, load_digits(return_X_y=True))
    x = (images / 16).float()
    backbone, fc = nn.Linear(64, 32), nn.Linear(32, 10)
    optimizer = torch.optim.Adam([*backbone.parameters(), *fc.parameters()], lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(fc(backbone(x).relu()), labels).backward()
        optimizer.step()
    state = {**backbone.state_dict(prefix="backbone.1."), **fc.state_dict(prefix="fc.")}
    return {name: value.detach() for name, value in state.items()}


@pytest.fixture
def own(project: Any, request: pytest.FixtureRequest) -> Any:
    """A project with a network of its own, in a module that no other test has, and weights for it."""
    name = f"own_{abs(hash(request.node.name))}"
    project.module = project.folder / f"{name}.py"
    project.module.write_text(NET, encoding="utf-8")
    project.target = f"{name}:Net"
    project.tree["prepare"].append({"name": "transform/normalize", "mean": [0], "std": [1]})  # pixels as they are
    project.tree["train"] = {
        "from": "w.safetensors",
        "model": {"name": "module", "target": project.target, "layers": "backbone", "head": "fc"},
    }
    save_file(trained(), project.folder / "w.safetensors")
    project.write()
    yield project
    sys.path[:] = [path for path in sys.path if path != str(project.folder.resolve())]


def planned(project: Any) -> Plan:
    """The plan of the params as they stand."""
    from assay.tasks import cells, settings

    cells.refresh()
    settings.importable(project.folder)
    project.write()
    return make_plan(read(project.params), project.folder, "cpu")


def refused(capsys: Any, *arguments: str) -> str:
    """The message of a command that ends with exit code 2."""
    with pytest.raises(SystemExit) as stop:
        cli.main([*(arguments or ("plan",))])
    said = str(capsys.readouterr().err)
    assert stop.value.code == 2, said
    assert "Traceback" not in said
    return said


def test_the_dense_model_is_the_given_weights_and_there_is_no_ceiling(own: Any) -> None:
    result = assay.run(own.params, prefect=False, track=False)
    from assay.flows.session import open_session

    session = open_session(own.params)
    ref = session.plan.models["dense"]
    state = load_file(session.store.folder(ref.slot, ref.key) / "model.safetensors")
    given = load_file(own.folder / "w.safetensors")
    assert torch.equal(state["layers.1.weight"], given["backbone.1.weight"])
    assert torch.equal(state["head.bias"], given["fc.bias"])
    assert not session.plan.reseeded
    row = result.summary.find("pruned", "rank", saliency="gradient")
    assert row.verdict == "not auditable"
    assert "epochs" in row.reason
    assert "its ceiling" in row.reason
    assert ("train", "the dense model is given by train.from, and not trained") in result.summary.skipped


def test_epochs_are_the_ceilings_and_not_the_dense_models(own: Any) -> None:
    before = planned(own).models["dense"]
    own.tree["train"]["epochs"] = 2
    scratch = planned(own)
    own.tree["attribute"]["ceiling"] = "finetune"
    tuned = planned(own)
    assert scratch.models["dense"] == tuned.models["dense"] == before
    assert "start" not in scratch.cells[scratch.models["reseeded-1"].key].inputs
    assert tuned.cells[tuned.models["reseeded-1"].key].inputs["start"] == before


def test_keys_follow_weights_and_source_and_not_the_files_place(own: Any) -> None:
    first = planned(own).models["dense"]
    shutil.copy(own.folder / "w.safetensors", own.folder / "elsewhere.safetensors")
    own.tree["train"]["from"] = "elsewhere.safetensors"
    assert planned(own).models["dense"] == first
    own.module.write_text(NET + "\n# a comment\n", encoding="utf-8")
    assert planned(own).models["dense"] == first
    own.module.write_text(NET.replace("nn.ReLU()", "nn.Tanh()"), encoding="utf-8")
    changed = planned(own)
    assert changed.models["dense"] != first
    cell = changed.cells[changed.models["dense"].key]
    assert elsewhere.stays(cell)  # the file is on this machine
    assert f"code.{own.module.stem}" in cell.ingredients
    state = load_file(own.folder / "w.safetensors")
    save_file({**state, "fc.bias": state["fc.bias"] + 1}, own.folder / "elsewhere.safetensors")
    assert planned(own).models["dense"] != changed.models["dense"]


def test_a_training_by_name_is_the_dense_model(own: Any) -> None:
    own.tree["trainings"] = {"big": {"model": "mlp", "epochs": 1}}
    own.tree["train"] = {"from": "big", "model": "mlp"}
    plan = planned(own)
    assert plan.models["dense"] == plan.trainings["big"]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("no_such_module_here:Net", ["cannot be imported", "beside params.yaml"]),
        ("os:system", ["belongs to Python itself"]),
        ("torch:load", ["does not say that it returns", "function of your own"]),
        ("joblib:load", ["does not say that it returns", "function of your own"]),
        ("torch.nn:Modul", ["no function or class 'Modul'", "did you mean 'Module'"]),
        ("torch:Tensor", ["is no torch.nn.Module"]),
        ("../evil:Net", ["pattern"]),
    ],
)
def test_a_target_that_is_none_is_refused_when_planning(own: Any, capsys: Any, target: str, words: list[str]) -> None:
    said = refused(capsys, "plan", "--set", f"train.model.target={target}")
    for word in ["train.model.target", *words]:
        assert word in said


@pytest.mark.parametrize("kind", ["zip", "pickle", "other"])
def test_pickled_checkpoints_are_refused_with_the_way_to_convert(own: Any, capsys: Any, kind: str) -> None:
    path = own.folder / ("w.pt" if kind == "zip" else "w2.safetensors")
    if kind == "other":
        path.write_text("not a checkpoint at all")
    else:
        torch.save({"a": torch.zeros(2)}, path, _use_new_zipfile_serialization=kind == "zip")
    said = refused(capsys, "plan", "--set", f"train.from={path.name}")
    assert "train.from" in said
    assert "save_file" in said
    assert ("weights_only=True" in said) == (kind != "other")
    assert "there is no file" in refused(capsys, "plan", "--set", "train.from=none.safetensors")


def test_what_does_not_fit_is_named(own: Any, capsys: Any) -> None:
    state = load_file(own.folder / "w.safetensors")
    state["fc.biass"] = state.pop("fc.bias")
    state["fc.weight"] = torch.zeros(7, 32)
    state["backbone.1.bias"][0] = float("nan")
    save_file(state, own.folder / "w.safetensors")
    said = refused(capsys, "run", "--no-server", "--only", "train")
    assert "missing: head.bias [10] (it has head.biass)" in said
    assert "unexpected: head.biass [10] (the model has head.bias)" in said
    assert "shape: head.weight is [7, 32], the model has [10, 32]" in said
    assert "layers.1.bias holds NaN" in said
    assert "10 outputs" in said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layers": "body"}, ["train.model.layers", "no child 'body'", "backbone, fc"]),
        ({"arguments": {"widht": 3}}, ["unexpected keyword argument 'widht'", "(spec, width)"]),
        ({"function": "number"}, ["returned a int", "torch.nn.Module"]),
        ({"function": "wide"}, ["give [2, 7], expected [2, 10]", "10 classes"]),
    ],
)
def test_a_network_that_does_not_fit_ends_with_one_message(
    own: Any, capsys: Any, changes: dict[str, Any], words: list[str]
) -> None:
    function = changes.pop("function", None)
    if function:
        changes["target"] = own.target.replace("Net", function)
    own.tree["train"]["model"].update(changes)
    own.write()
    said = refused(capsys, "run", "--no-server", "--only", "train")
    for word in words:
        assert word in said


def test_the_example_runs_as_its_readme_says(tmp_path: Path) -> None:
    folder = tmp_path / "own-model"
    shutil.copytree(ROOT / "examples" / "own-model", folder)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def call(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    call("make_example.py")
    assert "train dense" in call("-P", "-m", "assay.flows.cli", "plan")
    assert "pruned-tuned" in call("-P", "-m", "assay.flows.cli", "run", "--no-server")
    said = call("-P", "-m", "assay.flows.cli", "predict", "pruned", "photos/test/disc/000.png")
    assert "disc" in said


def test_weights_whose_preprocessing_nobody_says_are_refused(own: Any) -> None:
    own.tree["prepare"].pop()
    own.write()
    with pytest.raises(AssayError, match=r"train.from: nothing says how the inputs of w.safetensors were normalised"):
        assay.run(own.params, prefect=False, track=False)


def test_weights_that_dvc_does_not_watch_are_named(tmp_path: Path) -> None:
    """`dvc repro` would not see that they changed."""
    stages = {"prepare": {"deps": ["data/photos"]}, "train": {"deps": ["out/prepare"]}}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    assert dependencies_note(tmp_path, ["photos"], []) == ""
    said = dependencies_note(tmp_path, ["photos"], ["weights.safetensors"])
    assert said == "dvc.yaml: the deps of train lack weights.safetensors, which the run used: add that there"
    stages["train"]["deps"].append("weights.safetensors")
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    assert dependencies_note(tmp_path, ["photos"], ["weights.safetensors"]) == ""
