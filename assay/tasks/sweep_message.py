"""What a finished sweep has to say to MLflow: a row for the sweep, and one for each point and model."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from assay.tasks import message, track
from assay.tasks.plan import DENSE, Plan
from assay.tasks.reading import without_secrets
from assay.tasks.store import Store
from assay.tasks.sweep import say
from assay.tasks.sweep_table import PointResult, SweepTable

POINTS = "points"
FILES = ("sweep.html", "sweep.csv", "sweep.json")
# A sweep's models are not logged: what makes them is in the store, and `assay run` with a point's values logs one.
LEFT_OUT = ("shape", "outputs", "dtype", "requirements")
TAG_LENGTH = 4000

Facts = Callable[[PointResult, Plan], Mapping[str, Any]]


def point_folder(result: PointResult) -> str:
    """Where a point's summary is, below the sweep's report."""
    return f"{POINTS}/{result.point.number:04d}"


def enqueue(
    project: Path, table: SweepTable, plans: Sequence[Plan], store: Store, report: Path, tree: Any, facts: Facts
) -> bool:
    """Writes a finished sweep to the outbox; False where it waits already or was sent before, as it is.

    `report` is the folder of its page, `tree` the params that the points change, `facts` what MLflow is told
    of a point beside its numbers: `data`, `git`, `command`.
    """
    runs = list(_rows(table, plans, store, facts))

    def write_files(folder: Path) -> None:
        (folder / "sweep").mkdir(parents=True)
        for name in FILES:
            shutil.copyfile(report / name, folder / "sweep" / name)
        asked = yaml.safe_dump(tree, sort_keys=False)
        (folder / "sweep" / "params.yaml").write_text(without_secrets(asked), encoding="utf-8")
        if (report / POINTS).exists():
            shutil.copytree(report / POINTS, folder / POINTS)

    return track.put(project, f"sweep-{table.id}", runs, write_files, {"nested": ["sweep", table.id]})


def _rows(table: SweepTable, plans: Sequence[Plan], store: Store, facts: Facts) -> Iterator[dict[str, Any]]:
    children: list[dict[str, Any]] = []
    for result, plan in zip(table.results, plans, strict=True):
        known = facts(result, plan)
        if result.summary is None:
            children.append(_failed(table, result, plan, known))
            continue
        for row in message.rows(plan, store, result.summary, known):
            children.append(_child(table, result, row))
    seconds = {row["key"]: row["seconds"] for row in children}  # points share models
    yield _parent(table, facts(table.results[0], plans[0]), sum(seconds.values()))
    yield from children


def _parent(table: SweepTable, known: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    counts = {"points": len(table.results), "points.failed": len(table.failed)}
    if any(result.summary.gates for result in table.done if result.summary):
        counts["points.passed"] = sum(result.passed for result in table.done)
    values = {
        path: list(dict.fromkeys(say(r.point.values[path]) for r in table.results if path in r.point.values))
        for path in table.paths
    }
    note = "\n".join(f"- `{path}`: {', '.join(found)}" for path, found in values.items())
    tags = {
        "sweep": table.id,
        "kind": "sweep",
        "git": str(known.get("git", "")),
        "command": without_secrets(str(known.get("command", ""))),
        "note": f"{len(table.results)} points\n\n{note}",
    }
    return {
        "point": "",
        "model": "",
        "key": "",
        "name": f"sweep {table.id[:8]}",
        "judged": None,
        "failure": f"{len(table.failed)} points failed" if table.failed else "",
        "tags": {name: value[:TAG_LENGTH] for name, value in tags.items() if value},
        "params": {f"sweep.{path}": ", ".join(found) for path, found in values.items()},
        "metrics": [[name, float(value), 0] for name, value in counts.items()],
        "data": [],
        "seconds": seconds,
        "files": "sweep",
    }


def _child(table: SweepTable, result: PointResult, row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: value for name, value in row.items() if name not in LEFT_OUT},
        "point": result.point.id,
        "name": f"{result.point.number} {row['model']}: {result.point.name}"[:250],
        "judged": None,
        "failure": "",
        "tags": {**row["tags"], "sweep": table.id, "point": result.point.id},
        "params": {**row["params"], **_values(result)},
        "files": point_folder(result),
    }


def _failed(table: SweepTable, result: PointResult, plan: Plan, known: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a point without numbers: it stands where the dense model's would."""
    tags = {
        "pipeline": result.pipeline,
        "model": DENSE,
        "kind": "dense",
        "sweep": table.id,
        "point": result.point.id,
        "failure": result.failure,
        "git": str(known.get("git", "")),
        "command": without_secrets(str(known.get("command", ""))),
        "note": f"Failed: {result.failure}",
    }
    return {
        "point": result.point.id,
        "model": DENSE,
        "key": "",
        "name": f"{result.point.number} {DENSE}: {result.point.name}"[:250],
        "judged": None,
        "failure": result.failure,
        "tags": {name: value[:TAG_LENGTH] for name, value in tags.items() if value},
        "params": {**message.params(plan, []), **_values(result)},
        "metrics": [],
        "data": [],
        "seconds": 0.0,
        "files": "",
    }


def _values(result: PointResult) -> dict[str, str]:
    return {f"sweep.{path}": say(value) for path, value in result.point.values.items()}
