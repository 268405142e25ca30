"""A study or a search on the recipe and the data of a params file: one cell, and the trainings that it asks for."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from assay.flows.api import compute, get_ready, to_compute
from assay.flows.finish import alone, facts, send
from assay.flows.runners import open_executor, open_pool
from assay.flows.session import Session, materialise, open_session, project_of
from assay.plugins.values import Result
from assay.tasks import study_message
from assay.tasks.artifacts import load_result, read_json
from assay.tasks.cells import Cell
from assay.tasks.report.study import write_study
from assay.tasks.status import write_last
from assay.tasks.study import ANSWER


@dataclass(frozen=True)
class Study:
    """A finished study (`answer` is its verdict) or search (`answer` is the best recipe's changes)."""

    kind: str
    name: str
    cell: Cell
    result: Result
    answer: Any
    page: Path
    computed: int
    seconds: float
    notes: Sequence[str] = ()


def run_study(
    kind: str,
    method: Any,
    params: str | Path | Mapping[str, Any] = "params.yaml",
    overrides: Sequence[str] = (),
    space: Mapping[str, Sequence[Any]] | None = None,
    force: bool = False,
    project: str | Path | None = None,
    command: str | None = None,
    prefect: bool = True,
    track: bool = True,
    quiet: bool = True,
    console: Console | None = None,
    pool: str = "",
    runner: str = "local",
) -> Study:
    """Runs a method of the slot `study` or `search`, and returns what it found, with a page of its own under
    `reports/`. What it asks the lab for is computed once and kept: asked again, all are hits.

    `space` (of a search) maps dotted paths of the recipe, as `optimizer.lr` or `model`, to their values. `pool`
    and `runner` say where cells compute, as for a run. Nothing is registered and `dvc.lock` stays as it is.
    Raises BadInput, AssayError.
    """
    begun = time.monotonic()
    console = console or Console(stderr=True)
    with contextlib.ExitStack() as stack:
        machines = stack.enter_context(open_pool(project_of(params, project), pool, runner, prefect))
        session = open_session(params, overrides, project, command, machines.device() if machines else None)
        materialise(session)
        cell = session.plan.add_study(kind, method, space)
        session.plan = session.plan.only(cell)
        cells = session.plan.cells.values()
        executor = stack.enter_context(open_executor(session, cells, machines, runner, console))
        todo = to_compute(session, [cell.key] if force else [], None, console)
        sender = stack.enter_context(get_ready(session.project, prefect, track)) if todo else None
        compute(session, todo, executor, prefect, console, quiet)
        executor.stop()
        write_last(session.plan, session.store)
        folder = session.store.folder(cell.slot, cell.key)
        result, answer = load_result(folder), next(iter(read_json(folder / ANSWER).values()))
        page = finish(session, kind, method, cell, result, answer, track)
        notes = [*session.notes, *(send(session, sender) if track else [])]
    seconds = time.monotonic() - begun
    return Study(kind, method.method_name(), cell, result, answer, page, executor.computed, seconds, notes)


def finish(session: Session, kind: str, method: Any, cell: Cell, result: Result, answer: Any, track: bool) -> Path:
    """Writes the page and the table of a finished study or search, puts it into the outbox, and returns the page's
    path."""
    folder = session.project / "reports" / f"{kind}-{cell.key[:16]}"
    known = facts(session)
    with alone(session):
        page = write_study(folder, kind, method, result, answer, known)
        if track:
            study_message.enqueue(session.project, session.plan, session.store, cell, result, answer, folder, known)
    return page
