"""One run from Python: the same as `assay run`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from assay.flows.executor import Executor
from assay.flows.session import (
    Result,
    Session,
    check_hits,
    drop_forced,
    exchange,
    materialise,
    open_session,
    project_of,
)
from assay.tasks import params as p
from assay.tasks import track
from assay.tasks.status import needed, statuses, write_last


def run(
    params: str | Path | Mapping[str, Any] | p.Params = "params.yaml",
    overrides: Sequence[str] = (),
    only: str | None = None,
    force: Sequence[str] = (),
    project: str | Path | None = None,
    command: str | None = None,
    prefect: bool = True,
    track: bool = True,
    quiet: bool = True,
    console: Console | None = None,
    pool: str = "",
    runner: str = "local",
) -> Result:
    """Runs the pipeline on a params file, mapping or tree, and returns its numbers and report.

    `only` names a stage: it and what it depends on are computed, nothing after it. `force` recomputes
    cells whose label or key fits a pattern. Without `prefect` the cells run without a server. `pool` names a
    Prefect work pool, whose workers compute the cells; `runner` "dask" has them computed on a Dask cluster.
    Raises BadInput (exit code 2), AssayError (1).
    """
    from assay.flows.finish import finish
    from assay.flows.runners import open_executor, open_pool

    begun = time.monotonic()
    console = console or Console(stderr=True)
    sends = track and only in (None, "report")
    with contextlib.ExitStack() as stack:
        machines = stack.enter_context(open_pool(project_of(params, project), pool, runner, prefect))
        session = open_session(params, overrides, project, command, machines.device() if machines else None)
        cells = session.plan.cells.values()
        executor = stack.enter_context(open_executor(session, cells, machines, runner, console))
        expected = session.plan.groups(needed(session.plan, statuses(session.plan, session.store, {}, force), only))
        executor.warm(len(expected))  # their imports take as long as the data
        materialise(session)
        todo = to_compute(session, force, only, console)
        planned = time.monotonic()
        sender = stack.enter_context(get_ready(session.project, prefect, sends)) if todo else None
        compute(session, todo, executor, prefect, console, quiet)
        executor.stop()
        computing = executor.computing_seconds()
        computed = time.monotonic()
        write_last(session.plan, session.store)
        result = finish(session, only, track, computed=executor.computed, begun=begun, sender=sender)
    result.notes = [*result.notes, *session.notes]
    ended = time.monotonic()
    result.overhead = {
        "plan": planned - begun,
        "waiting": computed - planned - computing,
        "finish": ended - computed,
    }
    result.seconds = ended - begun
    return result


@contextlib.contextmanager
def get_ready(project: Path, prefect: bool, sends: bool) -> Iterator[track.Sender | None]:
    """What cells to compute need first: Prefect, with a server that answers. After that the process starts that
    will send to MLflow, whose imports then hold up nobody."""
    if prefect:
        from assay.flows import pipeline

        pipeline.get_ready(project)
    with track.Sender(project) if sends else contextlib.nullcontext() as sender:
        yield sender


def compute(
    session: Session, todo: Sequence[str], executor: Executor, prefect: bool, console: Console, quiet: bool
) -> None:
    """Computes the plan's cells with these keys, as a Prefect flow or without a server. Raises the first cell's
    failure."""
    from assay.flows.progress import Screen

    groups = session.plan.groups(todo)
    executor.watcher = screen = Screen(len(todo), session.store, console, quiet)
    with screen:
        if prefect and groups:
            from assay.flows.pipeline import run_flow

            run_flow(session, groups, executor)
        else:
            from assay.flows.local import run_groups

            run_groups(groups, executor.run)


def to_compute(session: Session, force: Sequence[str], only: str | None, console: Console) -> list[str]:
    """The keys to compute; damaged and forced artifacts are out of the store after this."""
    status = check_hits(session, force)
    for pattern in force:
        if not any(item.why == f"--force {pattern}" for item in status):
            console.print(f"[yellow]--force {pattern}: no cell's label or key fits it[/]", highlight=False)
    drop_forced(session, status)
    status = exchange(session.remote, session.plan, status, only)
    todo = needed(session.plan, status, only)
    for item in status:
        if item.why.startswith("damaged"):
            then = "it is computed again" if item.cell.key in todo else "nothing needs it now"
            console.print(f"[yellow]{item.cell.label}: {item.why}; {then}[/]", highlight=False)
    return todo
