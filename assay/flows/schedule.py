"""Scheduled runs: the flow that Prefect serves. Each runs in a process of its own, which imports this file."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from filelock import FileLock, Timeout
from prefect import flow
from prefect.flows import EntrypointType
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled, Completed, Failed, State

AT_ONCE = 2  # a run, and one that finds it going: on a slow machine more would pile up
SKIPPED = "skipped: the last run is still going"
STOPPED = "stopped; the next run goes on from here"


@flow(name="assay-scheduled", persist_result=False)
def scheduled(project: str, params: str, overrides: list[str]) -> State:
    """One scheduled run; skipped, and says so, while the last one is still going. Without a `project` it is
    that of the pool's worker, and `params` lies in it."""
    if not project:
        from assay.flows.elsewhere import Place

        place = Place.here()
        project, params = str(place.project), str(place.project / params)
    lock = FileLock(Path(project) / ".assay" / "scheduled.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        say(SKIPPED)
        return Cancelled(message=SKIPPED)
    try:
        return _run(Path(project), params, overrides)
    except KeyboardInterrupt:
        say(STOPPED)
        return Cancelled(message=STOPPED)
    finally:
        lock.release()


def _run(project: Path, params: str, overrides: Sequence[str]) -> State:
    from assay.flows import api  # slow to import: a run that is skipped need not wait for it
    from assay.plugins.values import AssayError

    try:
        result = api.run(params, overrides, project=project, command="assay serve")
    except AssayError as error:
        say(f"failed: {error}")
        return Failed(message=str(error))
    verdict = "every gate passed" if result.passed else "a gate failed"
    message = f"{verdict}; computed {result.computed} cells; report: {result.report}"
    say(message)
    return Completed(message=message)


def say(text: str) -> None:
    """A line with the time, for who watches `assay serve`."""
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}", file=sys.stderr, flush=True)


def serve(project: Path, params: Path, overrides: Sequence[str], cron: str, interval: float) -> None:
    """Serves the flow on a schedule until Ctrl-C, keeping the project's server alive."""
    from assay.flows import server

    url = server.ensure_server(project)
    arguments = {"project": str(project), "params": str(params.resolve()), "overrides": list(overrides)}
    say(f"runs {f'at {cron!r}' if cron else f'every {interval:g} s'}; Ctrl-C ends this; pages: assay ui")
    warnings.filterwarnings("ignore", message="coroutine 'Runner.astop'")  # what Prefect forgets on SIGTERM
    # Prefect read its settings when it was imported, which may have been before there was a server.
    with server.in_use(project), temporary_settings(updates={PREFECT_API_URL: url}):
        scheduled.serve(
            name=project.name,
            cron=cron or None,
            interval=None if cron else timedelta(seconds=interval),
            parameters=arguments,
            print_starting_message=False,
            limit=AT_ONCE,
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
    say("stopped")
