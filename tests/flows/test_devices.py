"""Training on several devices: what the processes' passes give together, what is refused, and what is in the key."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from assay.flows import api
from assay.flows.session import device_of
from assay.plugins import registry
from assay.plugins.values import Ask, AssayError, BadInput
from assay.tasks import ranks
from assay.tasks.cells import Cell, Env, Ref, ask_cells, recipe_spec
from assay.tasks.job import ProcessDied
from assay.tasks.params import validate

SCRIPT = Path(__file__).with_name("two_processes.py")
MLP = {"name": "mlp", "hidden": [8]}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """What is wrong with each check, from each of two processes."""
    meeting = str(tmp_path_factory.mktemp("group") / "meeting")
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(rank), meeting],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    answers = [process.communicate(timeout=240) for process in processes]
    assert all(process.returncode == 0 for process in processes), answers
    return [json.loads(out.splitlines()[-1]) for out, _ in answers]


NAMES = [line[4:].partition("(")[0] for line in SCRIPT.read_text(encoding="utf-8").split("@check\n")[1:]]


@pytest.mark.parametrize("name", NAMES)
def test_together_they_give_what_one_would(found: list[dict[str, str]], name: str) -> None:
    assert [answer[name] for answer in found] == ["", ""]


def test_every_check_ran(found: list[dict[str, str]]) -> None:
    assert [list(answer) for answer in found] == [NAMES, NAMES]


def recipe(**train: Any) -> dict[str, Any]:
    """Params with a recipe on two devices."""
    return {"prepare": ["source/digits"], "train": {"model": MLP, "devices": 2, **train}, "device": "cpu"}


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"around": ["clip", "upgrad"]}, "train.around.1: upgrad needs each example's gradient in one process"),
        ({"compile": True}, "train.compile: compiled code does not talk with other processes"),
    ],
)
def test_what_cannot_be_shared_is_refused_when_planning(train: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message + ", and train.devices is 2"):
        validate(recipe(**train))
    validate(recipe(**train, devices=1))


def test_other_learners_are_refused() -> None:
    message = "train.learner: convex_relu_admm learns in one process, and train.devices is 2"
    with pytest.raises(BadInput, match=message):
        validate(recipe(learner="convex_relu_admm"))


@pytest.mark.parametrize("value", [0, 65, 1.5, True, "2"])
def test_the_number_of_devices(value: Any) -> None:
    with pytest.raises(BadInput, match=r"train\.devices"):
        validate(recipe(devices=value))


def test_also_in_further_trainings() -> None:
    tree = {**recipe(), "trainings": {"teacher": {"model": MLP, "devices": 2, "around": ["upgrad"]}}}
    with pytest.raises(BadInput, match=r"trainings\.teacher\.around\.0: upgrad"):
        validate(tree)


def test_also_in_trainings_that_a_method_asks_for() -> None:
    spec, data = recipe_spec(validate(recipe(objective="cross_entropy")).train), Ref("prepare/source", "0")
    env = Env("cpu", 1, ".")
    with pytest.raises(BadInput, match=r"audit it: train\.around\.0: upgrad"):
        ask_cells("audit it", [Ask(changes={"around": ["upgrad"]})], spec, 0, env, "attribute", {"data": data})
    [[cell]] = ask_cells("audit it", [Ask(changes={"around": ["sam"]})], spec, 0, env, "attribute", {"data": data})
    assert cell.devices == 2


def test_methods_that_couple_examples_are_allowed() -> None:
    coupled = {"augment": ["mixup"], "penalty": ["causirl"]}
    assert all(registry.load(f"train/{slot}/{name}").card.coupled for slot, [name] in coupled.items())
    validate(recipe(**coupled))


def test_more_gpus_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    params = validate({**recipe(), "device": "cuda"})
    with pytest.raises(BadInput, match=r"train\.devices: 2 GPUs are wanted, and this machine has 1"):
        device_of(params)
    assert device_of(params, "cuda") == "cuda"  # a pool's machines may have them
    assert device_of(validate({**recipe(), "device": "cpu"})) == "cpu"


def said(**word: Any) -> ranks.Other:
    """Another process, with its last word; it has ended."""
    process = subprocess.Popen(["false"], text=True)
    process.wait()
    return ranks.Other("process 2 of 2", process, word, ended=True)


@pytest.mark.parametrize(
    ("word", "kind", "message"),
    [
        ({"what": "failed", "text": "no such thing", "code": 2}, AssayError, "^no such thing$"),
        (
            {"what": "failed", "text": "x", "code": None, "kind": "KeyError", "trace": "t"},
            RuntimeError,
            "KeyError in pro",
        ),
        ({"what": "ready"}, ProcessDied, "with exit code 1: process 2 of 2"),
    ],
)
def test_what_went_wrong_in_another_process_is_told(word: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message), ranks._explained([said(**word)]):
        raise RuntimeError("Connection closed by peer")


def test_an_error_of_its_own_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "NOTICE_SECONDS", 0.1)
    waiting = ranks.Other("process 2 of 2", subprocess.Popen(["true"], text=True), {"what": "ready"})
    with pytest.raises(RuntimeError, match="shapes"), ranks._explained([waiting]):
        raise RuntimeError("shapes do not fit")
    with pytest.raises(AssayError, match="diverged"), ranks._explained([said(what="ready")]):
        raise AssayError("diverged")
    waiting.process.wait()


def trainings(folder: Path, tree: dict[str, Any]) -> dict[str, Cell]:
    """The trainings of a plan by label."""
    cells = api.open_session(tree, project=folder).plan.cells.values()
    return {cell.label: cell for cell in cells if cell.slot == "train"}


def test_devices_are_in_the_key_of_every_training(tmp_path: Path) -> None:
    """Also of those that a link asks for, which take their part of the cores."""
    links = {"pruned": ["prune/magnitude", {"name": "recover/finetune", "epochs": 1}]}
    one, two = ({**recipe(devices=n), "compress": links, "attribute": {"saliency": ["gradient"]}} for n in (1, 2))
    alone, shared = trainings(tmp_path, one), trainings(tmp_path, two)
    asked = "compress pruned 1 recover/finetune training"
    assert {"train dense", "train reseeded-1", asked} <= set(alone)
    assert not {cell.key for cell in alone.values()} & {cell.key for cell in shared.values()}
    assert {cell.devices for cell in alone.values()} == {1}
    assert {cell.devices for cell in shared.values()} == {2}
    others = [c for c in api.open_session(two, project=tmp_path).plan.cells.values() if c.slot != "train"]
    assert {cell.devices for cell in others} == {1}
