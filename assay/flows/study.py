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
from assay.plugins.values import Ask, BadInput, Result
from assay.tasks import study_message
from assay.tasks.artifacts import load_result, read_json
from assay.tasks.cells import Cell, changed_recipe
from assay.tasks.params import validate
from assay.tasks.report.study import write_study
from assay.tasks.status import write_last
from assay.tasks.study import ANSWER
from assay.tasks.sweep import Point, tree_of


@dataclass(frozen=True)
class Study:
    """A finished study (`answer` is its verdict) or search (`answer` is the best recipe's changes, `sets` what
    `assay run --set` takes for them)."""

    kind: str
    name: str
    cell: Cell
    result: Result
    answer: Any
    page: Path
    computed: int
    seconds: float
    sets: Sequence[str] = ()
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
        check_space(session, space or {})
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
    sets = [] if space is None else sets_of(session, answer)
    return Study(kind, method.method_name(), cell, result, answer, page, executor.computed, seconds, sets, notes)


def check_space(session: Session, space: Mapping[str, Sequence[Any]]) -> None:
    """Raises BadInput where a value cannot stand in the recipe; one that lies inside another path's value must
    fit one of those."""
    recipe = session.plan.recipe(session.plan.params.train)
    for path, values in space.items():
        outer = next((other for other in space if path.startswith(f"{other}.")), None)
        starts: list[dict[str, Any]] = [{}] if outer is None else [{outer: value} for value in space[outer]]
        for value in values:
            faults = [fault_of(session, recipe, {**start, path: value}) for start in starts]
            if all(faults):
                raise BadInput(f"--space {path}: {faults[0]}")


def fault_of(session: Session, recipe: Mapping[str, Any], changes: Mapping[str, Any]) -> str:
    """Why a training cannot have these changes, or '' where it can."""
    try:
        whole = session.params.model_dump(mode="json")  # a method that the params leave to its default has a name
        validate(tree_of(whole, Point(1, {f"train.{path}": value for path, value in changes.items()})))
        changed_recipe(recipe, Ask(changes=changes))
    except BadInput as error:
        return str(error)
    return ""


def sets_of(session: Session, changes: Mapping[str, Any]) -> list[str]:
    """The `--set` values of a run with a recipe's changes; with a method's name where the params leave it out."""
    train = session.tree.get("train") or {}
    slots = {path.partition(".")[0] for path in changes if "." in path} - set(changes) - set(train)
    names = {f"train.{slot}.name": getattr(session.plan.params.train, slot).method_name() for slot in sorted(slots)}
    return Point(1, {**names, **{f"train.{path}": value for path, value in changes.items()}}).overrides()


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
