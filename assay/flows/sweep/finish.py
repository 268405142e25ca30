"""What follows when the cells of a sweep are there: each point's numbers, the page, MLflow."""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from assay.flows.finish import alone, data_facts
from assay.flows.session import Session, git_commit
from assay.flows.sweep.points import Part, Sweep
from assay.tasks import results, sweep_message
from assay.tasks.artifacts import write_json
from assay.tasks.closure import version
from assay.tasks.params import labels
from assay.tasks.plan import Plan
from assay.tasks.report.sweep import write_sweep
from assay.tasks.report.view import shares
from assay.tasks.report.words import Words
from assay.tasks.sweep_table import Metric, PointResult, SweepTable, parse_metric, to_json


def tabulate(sweep: Sweep, failures: Mapping[str, str], metrics: Sequence[Metric], variant: str) -> SweepTable:
    """The points' numbers. `failures` maps keys of cells that could not be computed to the reason."""
    found = []
    headline = ""
    for part in sweep.parts:
        why = next((failures[key] for key in part.plan.cells if key in failures), "")
        result = PointResult(part.point, part.plan.id, failure=why.splitlines()[0] if why else "")
        if not why:
            result.summary = results.summarise(part.plan, part.session.store)
            headline = headline or result.summary.headline
        found.append(result)
    first = [parse_metric(headline)] if headline else []
    chosen = [metric for metric in metrics if metric not in first]
    return SweepTable(sweep.id, found, [*first, *chosen], variant)


def report_folder(sweep: Sweep) -> Path:
    """Where a sweep's page is."""
    return sweep.session.project / "reports" / f"sweep-{sweep.id}"


def write(sweep: Sweep, table: SweepTable) -> Path:
    """Writes the page, the CSV, `sweep.json` and each point's summary, each whole or not at all; returns the
    page's path."""
    session = sweep.session
    facts = _facts(sweep, table)
    with alone(session):
        fresh = session.project / ".assay" / "sweep.new"
        shutil.rmtree(fresh, ignore_errors=True)
        page = write_sweep(table, _words(sweep, table), fresh, facts)
        write_json(fresh / "sweep.json", {"sweep": table.id, "points": to_json(table)})
        for result in table.done:
            if result.summary is not None:
                own = fresh / sweep_message.point_folder(result)
                own.mkdir(parents=True)
                write_json(own / "summary.json", result.summary.to_json())
        folder = report_folder(sweep)
        for result in table.failed:
            shutil.rmtree(folder / sweep_message.point_folder(result), ignore_errors=True)
        for path in sorted(path for path in fresh.rglob("*") if path.is_file()):
            target = folder / path.relative_to(fresh)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
        shutil.rmtree(fresh)
    return folder / page.name


def enqueue(sweep: Sweep, table: SweepTable, page: Path) -> None:
    """Puts the sweep into the outbox."""
    session = sweep.session
    parts = {part.point.number: part for part in sweep.parts}
    common = {"git": git_commit(session.project), "command": session.command}

    def facts(result: PointResult, plan: Plan) -> Mapping[str, Any]:
        known = result.summary is not None
        return {**common, "data": data_facts(parts[result.point.number].session) if known else []}

    plans = [part.plan for part in sweep.parts]
    sweep_message.enqueue(session.project, table, plans, session.store, page.parent, sweep.base, facts)


def _words(sweep: Sweep, table: SweepTable) -> Words:
    """How numbers are said: which are shares is seen in one point of each set of evaluators."""
    seen: dict[tuple[str, ...], frozenset[tuple[str, str]]] = {}
    for part, result in zip(sweep.parts, table.results, strict=True):
        asked = tuple(labels(part.session.params.evaluate))
        if result.summary is not None and asked not in seen:
            seen[asked] = shares(part.plan, part.session.store)
    return Words(frozenset().union(*seen.values()))


def _facts(sweep: Sweep, table: SweepTable) -> dict[str, Any]:
    session = sweep.session
    number = _shown_point(table)
    part = next(part for part in sweep.parts if part.point.number == number)
    return {
        "command": session.command,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {n: version(n) for n in ("assay", "torch", "numpy", "onnxruntime", "prefect", "mlflow")},
        "git": git_commit(session.project),
        "point": point_command(part),
        "number": number,
    }


def _shown_point(table: SweepTable) -> int:
    """The number of the point to show how one is run by itself: the best, where there is one."""
    metric = table.decisive
    for model in reversed(table.models):
        ranked = table.ranked(model, metric) if metric is not None else []
        if ranked:
            return ranked[0][0].point.number
    return table.results[0].point.number


def point_command(part: Part) -> str:
    """The command that runs one point by itself."""
    session: Session = part.session
    file = session.params_file
    words = ["assay", "run", *(["--params", str(file)] if file is not None and str(file) != "params.yaml" else [])]
    for override in [*session.overrides, *part.point.overrides()]:
        words += ["--set", override]
    return shlex.join(words)
