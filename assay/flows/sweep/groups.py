"""Runs the groups of cells of all points: what a failed cell does not concern goes on."""

from __future__ import annotations

import contextlib
import functools
import heapq
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from assay.flows.elsewhere import THREADS
from assay.flows.executor import CellFailed, Executor, Watcher
from assay.flows.pipeline import on_server
from assay.tasks.cells import Cell

Groups = Mapping[str, Sequence[Cell]]
# The flow's own run: tasks get small JSON (names, keys), never cells or the executor.
_current: dict[str, tuple[Ledger, Groups]] = {}


class Ledger:
    """Computes cells and keeps what came of those that could not be.

    `failures` maps the key of each cell that failed, or needs one that did, to the first failure's message.
    """

    def __init__(self, executor: Executor):
        self.executor = executor
        self.failures: dict[str, str] = {}
        self._lock = threading.Lock()

    def run(self, cells: Sequence[Cell]) -> None:
        """Computes every cell that no failure stands in the way of, then raises CellFailed where one does."""
        rest = list(cells)
        while rest := [cell for cell in rest if not self._blocked(cell)]:
            try:
                self.executor.run(rest)
                break
            except CellFailed as error:
                with self._lock:
                    self.failures[error.key] = str(error)
                rest = rest[1 + next(i for i, cell in enumerate(rest) if cell.key == error.key) :]
        failed = [self.failures[cell.key] for cell in cells if cell.key in self.failures]
        if failed:
            raise CellFailed(failed[0])

    def _blocked(self, cell: Cell) -> bool:
        with self._lock:
            causes = [self.failures[ref.key] for ref in cell.inputs.values() if ref.key in self.failures]
            if causes:
                self.failures[cell.key] = causes[0]
        return bool(causes)


class Named:
    """Tells a watcher of cells by the point that first needs them."""

    def __init__(self, watcher: Watcher, points: Mapping[str, int]):
        self.watcher, self.points = watcher, points

    def _named(self, cell: Cell) -> Cell:
        number = self.points.get(cell.key)
        return cell if number is None else replace(cell, label=f"point {number}: {cell.label}")

    def started(self, cells: Sequence[Cell]) -> None:
        """These cells are to be computed now."""
        self.watcher.started([self._named(cell) for cell in cells])

    def finished(self, cell: Cell, status: str, seconds: float) -> None:
        """A cell is `done`, or was a `hit`."""
        self.watcher.finished(self._named(cell), status, seconds)

    def failed(self, cell: Cell) -> None:
        """A cell failed."""
        self.watcher.failed(self._named(cell))


def group(cells: Mapping[str, Cell], points: Mapping[str, int]) -> dict[str, list[Cell]]:
    """The cells to compute by point and group, in order; `points` maps their keys to points."""
    found: dict[str, list[Cell]] = {}
    for key, number in points.items():
        name = f"point {number}: {cells[key].group}"
        found.setdefault(name, []).append(replace(cells[key], group=name))
    return found


def needs(groups: Groups) -> dict[str, set[str]]:
    """Which groups each group waits for: those that compute an input of one of its cells."""
    owner = {cell.key: name for name, cells in groups.items() for cell in cells}
    return {
        name: {owner[ref.key] for cell in cells for ref in cell.inputs.values() if ref.key in owner} - {name}
        for name, cells in groups.items()
    }


def in_order(groups: Groups, submit: Callable[[str], Any], limit: int) -> None:
    """Submits every group once those that it waits for have ended, whatever came of them; earlier groups
    first, at most `limit` at a time. Groups that measure the machine come after all others."""
    for exclusive in (False, True):
        part = {n: cells for n, cells in groups.items() if any(cell.exclusive for cell in cells) == exclusive}
        _in_order(part, submit, limit)


def _in_order(groups: Groups, submit: Callable[[str], Any], limit: int) -> None:
    names = list(groups)
    place = {name: i for i, name in enumerate(names)}
    waits = needs(groups)
    open_needs = {name: len(before) for name, before in waits.items()}
    users: dict[str, list[str]] = {name: [] for name in names}
    for name, before in waits.items():
        for other in before:
            users[other].append(name)
    ready = [place[name] for name in names if not open_needs[name]]
    ended: SimpleQueue[str] = SimpleQueue()
    running = 0
    while ready or running:
        while ready and running < limit:
            name = names[heapq.heappop(ready)]
            running += 1
            submit(name).add_done_callback(functools.partial(_tell, ended, name))
        name = ended.get()
        running -= 1
        for user in users[name]:
            open_needs[user] -= 1
            if not open_needs[user]:
                heapq.heappush(ready, place[user])


def _tell(ended: SimpleQueue[str], name: str, future: object) -> None:
    ended.put(name)


# without a server, and with one


def run_local(groups: Groups, ledger: Ledger) -> None:
    """Runs the groups on threads. Where the wait is interrupted (Ctrl-C) those that run are left to the
    caller, who stops them."""
    limit = min(ledger.executor.at_once, THREADS)
    threads = ThreadPoolExecutor(limit)
    futures = {}

    def submit(name: str) -> Any:
        futures[name] = threads.submit(ledger.run, groups[name])
        return futures[name]

    try:
        in_order(groups, submit, limit)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
    for future in futures.values():
        _unless_a_cell_failed(future.exception())


def _unless_a_cell_failed(error: BaseException | None) -> None:
    """Raises an error that is no cell's: those are in the ledger."""
    if error is not None and not isinstance(error, CellFailed):
        raise error


def run_flow(project: Path, id: str, groups: Groups, ledger: Ledger) -> None:
    """Runs the groups as tasks of one flow run on the project's Prefect server. Raises AssayError where the
    server goes away."""
    flow = make_flow()
    devices = {cell.env.device for cells in groups.values() for cell in cells}
    _current[id] = (ledger, groups)
    try:
        with on_server(project, ledger.executor, devices), contextlib.suppress(CellFailed):
            # A failed cell marks the flow as failed; the ledger knows the rest.
            flow(sweep=id, limit=min(ledger.executor.at_once, THREADS))
    finally:
        del _current[id]


@functools.cache
def make_flow() -> Any:
    """The flow; Prefect is imported here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from prefect import flow, task
        from prefect.artifacts import create_markdown_artifact
        from prefect.cache_policies import NO_CACHE
        from prefect.task_runners import ThreadPoolTaskRunner

    @task(task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
    def compute_group(sweep: str, name: str, keys: list[str]) -> None:
        ledger, groups = _current[sweep]
        ledger.run(groups[name])

    @flow(
        name="assay-sweep",
        flow_run_name="assay sweep {sweep}",
        task_runner=ThreadPoolTaskRunner(max_workers=THREADS),  # type: ignore[arg-type]
        persist_result=False,
    )
    def sweep_flow(sweep: str, limit: int) -> int:
        ledger, groups = _current[sweep]
        futures: dict[str, Any] = {}
        compute: Any = compute_group

        def submit(name: str) -> Any:
            futures[name] = compute.submit(sweep, name, [cell.key for cell in groups[name]])
            return futures[name]

        try:
            in_order(groups, submit, limit)
        except BaseException:  # Ctrl-C: Prefect waits for tasks under way before it lets go of the flow
            ledger.executor.stop()
            raise
        create_markdown_artifact(key="assay-sweep", markdown=_outcome(groups, ledger), description=f"sweep {sweep}")
        for future in futures.values():
            if future.state.is_failed() or future.state.is_crashed():
                error = future.result(raise_on_failure=False)
                _unless_a_cell_failed(error if isinstance(error, BaseException) else None)
        if ledger.failures:
            raise CellFailed(f"{len(ledger.failures)} of {sum(map(len, groups.values()))} cells could not be computed")
        return len(groups)

    return sweep_flow


def _outcome(groups: Groups, ledger: Ledger) -> str:
    """What came of the cells, in Markdown."""
    lines = [f"{sum(map(len, groups.values()))} cells in {len(groups)} groups, {len(ledger.failures)} not computed"]
    causes = dict.fromkeys(message.splitlines()[0] for message in ledger.failures.values())
    return "\n".join([*lines, "", *(f"- {cause}" for cause in causes)])
