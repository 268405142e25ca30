"""What a finished study or search has to say to MLflow: a row for itself, and one for each training it asked for."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from assay.plugins.values import Result
from assay.tasks import message, track
from assay.tasks.artifacts import read_json
from assay.tasks.cells import Cell, flatten
from assay.tasks.plan import Plan
from assay.tasks.reading import without_secrets
from assay.tasks.store import Store
from assay.tasks.study import TRAININGS
from assay.tasks.sweep import say

FILES = "study"
TAG_LENGTH, NAME_LENGTH = 4000, 250


def enqueue(
    project: Path,
    plan: Plan,
    store: Store,
    cell: Cell,
    result: Result,
    answer: Any,
    report: Path,
    facts: Mapping[str, Any],
) -> bool:
    """Writes a finished study or search, the answer of `cell`, to the outbox; False where it waits already or was
    sent before, as it is. `report` is the folder of its page, `facts` what the page says beside the numbers."""

    def write_files(folder: Path) -> None:
        shutil.copytree(report, folder / FILES)
        asked = yaml.safe_dump(plan.params.model_dump(mode="json"), sort_keys=False)
        (folder / FILES / "params.yaml").write_text(without_secrets(asked), encoding="utf-8")

    runs = [_parent(plan, store, cell, result, answer, facts), *_children(plan, store, cell)]
    return track.put(project, report.name, runs, write_files, {"nested": [cell.slot, id_of(cell)]})


def id_of(cell: Cell) -> str:
    """A study's or search's id: the beginning of its cell's key."""
    return cell.key[:16]


def _parent(
    plan: Plan, store: Store, cell: Cell, result: Result, answer: Any, facts: Mapping[str, Any]
) -> dict[str, Any]:
    method, data = cell.spec["method"], list(facts.get("data", []))
    told = answer if isinstance(answer, str) else json.dumps(answer)
    tags = {
        cell.slot: id_of(cell),
        "kind": cell.slot,
        "method": method["id"],
        "key": cell.key,
        "data": str(data[0]["version"]) if data else "",
        "problem": plan.problem,
        "answer": told,
        "git": str(facts.get("git", "")),
        "command": without_secrets(str(facts.get("command", ""))),
        "note": told,
    }
    asked = {**flatten(method["params"], cell.slot), **flatten(cell.spec.get("space", {}), "space")}
    numbers = {name: float(number.value) for name, number in result.numbers.items()}
    return {
        **_row(cell.key, f"{method['id']} {cell.key[:8]}", tags),
        "params": {**message.params(plan, []), **{name: str(value) for name, value in asked.items()}},
        "metrics": [[message.metric_name(name), v, 0] for name, v in numbers.items() if math.isfinite(v)],
        "data": [{name: row.get(name) for name in ("name", "source", "version", "sizes")} for row in data],
        "seconds": float(store.manifest(cell.slot, cell.key).get("seconds", 0)),
        "files": FILES,
    }


def _children(plan: Plan, store: Store, cell: Cell) -> Iterator[dict[str, Any]]:
    """A row for each training, told by what differs from the recipe."""
    recipe = flatten(cell.spec["recipe"], "train")
    trainings = read_json(store.folder(cell.slot, cell.key) / TRAININGS)
    for i, told in enumerate(trainings, 1):
        transforms = flatten(told["transforms"], "transforms") if told["transforms"] else {}
        own = {**flatten(told["recipe"], "train"), **transforms, "seed": told["seed"]}
        changes = ", ".join(f"{n}={say(v)}" for n, v in own.items() if n not in recipe or recipe[n] != v)
        tags = {"kind": "training", "key": told["key"], "start": told["start"], "changes": changes}
        yield {
            **_row(told["key"], f"{i} {changes}", {cell.slot: id_of(cell), **tags}),
            "point": told["key"],
            "model": "training",
            "params": {
                **{n: v for n, v in message.params(plan, []).items() if not n.startswith("train.")},
                **{name: str(value) for name, value in own.items() if value not in (None, "", [])},
            },
            "metrics": list(message.curves("train", told["history"])),
        }


def _row(key: str, name: str, tags: Mapping[str, str]) -> dict[str, Any]:
    """What rows have in common: nothing is judged, and no model is logged."""
    return {
        "point": "",
        "model": "",
        "key": key,
        "name": name[:NAME_LENGTH],
        "judged": None,
        "failure": "",
        "tags": {tag: value[:TAG_LENGTH] for tag, value in tags.items() if value},
        "params": {},
        "metrics": [],
        "data": [],
        "seconds": 0.0,
        "files": "",
    }
