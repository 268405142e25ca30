"""What follows when all cells are there: numbers, gates, report, metrics, MLflow, DVC."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

from filelock import FileLock

from assay.flows.session import Result, Session, check_hits, git_commit
from assay.plugins.values import BadInput
from assay.tasks import results
from assay.tasks.artifacts import load_data, write_json
from assay.tasks.status import needed
from assay.tasks.summary import Summary
from assay.tasks.track import Sender


def facts(session: Session) -> dict[str, Any]:
    """What the report says of the run beside its numbers."""
    from assay.tasks.closure import version

    return {
        "command": session.command,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {n: version(n) for n in ("assay", "torch", "numpy", "onnxruntime", "prefect", "mlflow", "dvc")},
        "data": data_facts(session),
        "git": git_commit(session.project),
        "trial": bool(session.overrides),
    }


def data_facts(session: Session) -> list[dict[str, Any]]:
    """Name, version, sizes, shape and classes of each data set."""
    data = []
    for name, ref in session.plan.data.items():
        folder = session.store.folder(ref.slot, ref.key)
        meta = load_data(folder)
        source = session.plan.cells[ref.key]
        while "data" in source.inputs:
            source = session.plan.cells[source.inputs["data"].key]
        data.append(
            {
                "name": name,
                "source": source.spec["dataset"],
                "version": source.spec["digest"],
                "sizes": {k: len(v) for k, v in meta.splits.items()},
                "shape": list(meta.spec.shape),
                "classes": list(meta.spec.classes),
            }
        )
    return data


def finish(
    session: Session, only: str | None, track: bool, computed: int, begun: float, sender: Sender | None = None
) -> Result:
    """Writes the report and metrics, records the run with DVC and sends it to MLflow, by `sender` where one
    waits for it.

    After a run of one stage only, the numbers that are not there yet are left out and nothing is
    recorded.
    """
    if only is not None and only != "report":
        empty = Summary(session.plan.id, [], [], "", [], [], "")
        return Result(session.plan.id, empty, session.project, computed, len(session.plan.cells), 0.0)
    summary = results.summarise(session.plan, session.store)
    known = facts(session)
    notes = []
    with alone(session):
        path = write(session, summary, known)
        if track:
            from assay.flows.record import commit
            from assay.tasks import track as tracking

            notes.append(commit(session, summary))
            tracking.enqueue(session.project, session.plan, session.store, summary, path, known)
    if track:
        notes += send(session, sender)
    seconds = time.monotonic() - begun
    return Result(
        session.plan.id, summary, path, computed, len(session.plan.cells), seconds, {}, [n for n in notes if n]
    )


def send(session: Session, sender: Sender | None) -> list[str]:
    """Sends what waits in the outbox, by `sender` where one waits for it; returns what to say to people where
    MLflow did not take it."""
    from assay.tasks import mlflow_at, track

    _, waiting = track.sync(session.project, sender)
    if not waiting:
        return []
    uri = mlflow_at.without_password(mlflow_at.tracking_uri(session.project))
    return [f"MLflow did not take {waiting} runs at {uri}: `assay track sync` sends them later"]


def alone(session: Session) -> FileLock:
    """The lock of what a run writes into the project beside the store: of two runs one waits."""
    (session.project / ".assay").mkdir(parents=True, exist_ok=True)
    return FileLock(session.project / ".assay" / "finish.lock")


def write(session: Session, summary: Summary, known: dict[str, Any]) -> Path:
    """Writes the report's files, each whole or not at all, and returns the page's path."""
    from assay.tasks.report import write_report

    fresh = session.project / ".assay" / "report.new"
    shutil.rmtree(fresh, ignore_errors=True)
    page = write_report(session.plan, session.store, summary, fresh, known)
    write_json(fresh / "summary.json", summary.to_json())
    folder = session.project / "reports" / session.plan.id
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(fresh.iterdir()):
        os.replace(path, folder / path.name)
    fresh.rmdir()
    return folder / page.name


def write_again(session: Session) -> Path:
    """The report of a finished run, from the store. Raises BadInput where cells are missing."""
    missing = needed(session.plan, check_hits(session, ()))
    if missing:
        raise BadInput(f"{len(missing)} cells of these params are not computed yet: `assay run` does it")
    with alone(session):
        return write(session, results.summarise(session.plan, session.store), facts(session))
