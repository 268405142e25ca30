"""The Prefect flow: one task for each group of cells, and what a schedule runs."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from assay.flows import gpu
from assay.flows.executor import CellFailed, Executor
from assay.flows.local import dependencies
from assay.flows.server import ensure_server, in_use
from assay.flows.session import Session
from assay.plugins.values import AssayError
from assay.tasks.cells import Cell

THREADS = 16
# The flow's own run: tasks get small JSON (names, keys), never cells, tensors or the executor.
_current: dict[str, tuple[Executor, Mapping[str, Sequence[Cell]]]] = {}


def run_flow(session: Session, groups: Mapping[str, Sequence[Cell]], executor: Executor) -> None:
    """Runs the groups as tasks of one flow run on the project's Prefect server. Raises the first cell's
    failure, and AssayError where the server goes away."""
    flow = make_flow()
    pipeline = session.plan.id
    _current[pipeline] = (executor, groups)
    try:
        with on_server(session.project, executor, {session.plan.env.device}):
            flow(pipeline=pipeline, names=list(groups))
    finally:
        del _current[pipeline]


@contextlib.contextmanager
def on_server(project: Path, executor: Executor, devices: Set[str]) -> Iterator[None]:
    """Has the block's flow run on the project's Prefect server, which is there for as long, and its cells, which
    compute on these devices, take GPU slots there. Raises AssayError where the server goes away."""
    url = ensure_server(project)
    if devices - {"cpu"}:
        gpu.ensure_limit(url, gpu.here())
        executor.limit_at = url
    import httpx  # Prefect's own way to its server
    from prefect.settings import PREFECT_API_URL, temporary_settings

    try:
        # Prefect read its settings when it was imported, maybe for another project's server.
        with in_use(project), temporary_settings(updates={PREFECT_API_URL: url}):
            yield
    except httpx.HTTPError as error:
        executor.stop()
        text = f"the Prefect server at {url} does not answer any more ({type(error).__name__})"
        raise AssayError(f"{text}: what is computed is kept, the same command goes on from there") from error


def get_ready(project: Path) -> Any:
    """The flow, with a server that answers; imports Prefect, after its settings are in place."""
    ensure_server(project)
    return make_flow()


@functools.cache
def make_flow() -> Any:
    """The flow; Prefect is imported here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from prefect import flow, task
        from prefect.artifacts import create_markdown_artifact
        from prefect.cache_policies import NO_CACHE
        from prefect.task_runners import ThreadPoolTaskRunner

    @task(task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)  # a tag would cost a request a task
    def compute_group(pipeline: str, name: str, keys: list[str]) -> None:
        executor, groups = _current[pipeline]
        executor.run(groups[name])

    @flow(
        name="assay",
        flow_run_name="assay {pipeline}",
        task_runner=ThreadPoolTaskRunner(max_workers=THREADS),  # type: ignore[arg-type]
        persist_result=False,
    )
    def pipeline_flow(pipeline: str, names: list[str]) -> int:
        executor, groups = _current[pipeline]
        needs = dependencies(groups)
        futures: dict[str, Any] = {}
        compute: Any = compute_group
        for name in _in_order(needs):
            keys = [cell.key for cell in groups[name]]
            waits = [futures[other] for other in needs[name]]
            futures[name] = compute.submit(pipeline, name, keys, wait_for=waits)
        failure: BaseException | None = None
        try:
            for future in futures.values():
                future.wait()
        except BaseException:  # Ctrl-C: Prefect waits for tasks under way before it lets go of the flow
            executor.stop()
            raise
        for future in futures.values():
            state = future.state
            if state.is_failed() or state.is_crashed():
                error = future.result(raise_on_failure=False)
                if isinstance(error, BaseException) and (failure is None or isinstance(error, CellFailed)):
                    failure = error if not isinstance(failure, CellFailed) else failure
        if failure is not None:
            raise failure
        lines = [f"- {name}: {len(cells)} cells" for name, cells in groups.items()] or ["- nothing to do"]
        create_markdown_artifact(key="assay-cells", markdown="\n".join(lines), description=f"pipeline {pipeline}")
        return len(names)

    return pipeline_flow


def _in_order(needs: Mapping[str, set[str]]) -> list[str]:
    order: list[str] = []
    rest = dict(needs)
    while rest:
        ready = [name for name, before in rest.items() if before <= set(order)]
        order.extend(ready)
        for name in ready:
            del rest[name]
    return order
