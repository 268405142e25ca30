"""Runs groups of cells in worker processes; whoever waits, waits here in the parent."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from assay.flows import gpu
from assay.flows.machine import machine_lock
from assay.flows.workers import Worker, WorkerDied, Workers
from assay.plugins.values import AssayError
from assay.tasks.cells import Cell, Ref
from assay.tasks.compute import THERE, Outcome
from assay.tasks.remote import Remote, RemoteFailed
from assay.tasks.store import Store, try_lock

POLL_SECONDS = 0.2
MAX_DEATHS = 3


class CellFailed(AssayError):
    """A cell ended with an error; `code` is the exit code that its kind deserves, `key` the cell's, `reason` why, where
    it would fail again on any machine."""

    def __init__(self, message: str, code: int = 1, key: str = "", reason: str = ""):
        super().__init__(message)
        self.code, self.key, self.reason = code, key, reason


class Watcher(Protocol):
    """What is told of the work: for progress on a screen or nowhere."""

    def started(self, cells: Sequence[Cell]) -> None:
        """These cells are to be computed now, one after the other."""

    def finished(self, cell: Cell, status: str, seconds: float) -> None:
        """A cell is `done`, or was a `hit`."""

    def failed(self, cell: Cell) -> None:
        """A cell failed."""


class Nobody:
    """Watches nothing."""

    def started(self, cells: Sequence[Cell]) -> None: ...

    def finished(self, cell: Cell, status: str, seconds: float) -> None: ...

    def failed(self, cell: Cell) -> None: ...


@dataclass
class Executor:
    """Computes groups of cells; safe to call from several threads. Use as a context manager.

    `limit_at` is the Prefect server whose GPU slots its cells use; `computed` counts the cells that this
    run computed itself.
    """

    store: Store
    downloads: Path
    workers: int
    threads: int
    command: str
    watcher: Watcher = field(default_factory=Nobody)
    remote: Remote | None = None
    limit_at: str = ""
    computed: int = 0
    busy_intervals: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._workers = Workers(self.workers, self.threads)
        self._asked: dict[str, Future[None]] = {}
        self._failures: dict[str, str] = {}

    def __enter__(self) -> Executor:
        self.store.tidy()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def at_once(self) -> int:
        """How many groups should be handed to it at a time, so that it never waits for one."""
        return 2 * self.workers

    def warm(self, count: int) -> None:
        """Starts processes for up to `count` groups, to compute in them later."""
        self._workers.warm(count)

    def stop(self) -> None:
        """Ends every computation; threads that wait in `run` get Stopped."""
        self._workers.stop()

    def run(self, cells: Sequence[Cell]) -> None:
        """Computes cells one after the other. Raises CellFailed at the first that fails."""
        rest = list(cells)
        self.watcher.started(rest)
        while True:
            told = set(self._failures)
            outcome = self.advance(rest)
            if outcome is None:
                return
            if outcome.status != "pending":
                self.watcher.failed(rest[0])
                raise CellFailed(outcome.message + self._log(outcome), outcome.code, rest[0].key, outcome.reason)
            try:
                self._ensure([Cell.from_json(cell) for cell in outcome.pending], told if outcome.may_fail else None)
            except CellFailed as failure:
                raise CellFailed(str(failure), failure.code, rest[0].key, failure.reason) from failure

    def advance(self, rest: list[Cell]) -> Outcome | None:
        """Computes cells and takes them off the list, up to the first that fails or needs trainings first;
        returns what came of that one. A process that dies is replaced, three times at most."""
        deaths = 0
        while rest:
            before = len(rest)
            try:
                outcome = self._compute(rest)
            except WorkerDied as death:
                deaths = deaths + 1 if len(rest) == before else 1
                if deaths > MAX_DEATHS:
                    text = f"{rest[0].label}: its process died {deaths} times, the last time {death}"
                    return Outcome(rest[0].key, "failed", message=text)
                continue
            if outcome is None or outcome.status != "busy":
                return outcome
            self._wait(rest[0])
        return None

    def _compute(self, rest: list[Cell]) -> Outcome | None:
        """Computes cells in one worker and takes them off the list, up to the first that is not there in
        the end; returns what came of that one."""
        exclusive = any(cell.exclusive for cell in rest)
        places = max(cell.devices for cell in rest)
        with self._workers.borrow(places) as worker, machine_lock(exclusive, self.stopped), self._clock():
            while rest:
                outcome = self._compute_one(worker, rest[0])
                if outcome.status not in THERE:
                    return outcome
                with self._lock:
                    self.computed += outcome.status == "done"
                self.watcher.finished(rest.pop(0), outcome.status, outcome.seconds)
        return None

    def _compute_one(self, worker: Worker, cell: Cell) -> Outcome:
        """Computes a cell, unless the remote has it; what it needs comes from there, and it goes there."""
        if self.remote is None:
            return self._in_worker(worker, cell)
        try:
            if self.remote.fetch(cell.ref):
                return Outcome(cell.key, "hit")
            for role, ref in cell.inputs.items():
                if not self._bring(ref):
                    text = f"{cell.label}: its input '{role}' ({ref.slot}/{ref.key}) is neither here nor in the remote"
                    return Outcome(cell.key, "failed", message=text)
            outcome = self._in_worker(worker, cell)
            if outcome.status in THERE:
                self.remote.push(cell.ref)
        except RemoteFailed as error:
            return Outcome(cell.key, "failed", message=f"{cell.label}: {error}")
        return outcome

    def _in_worker(self, worker: Worker, cell: Cell) -> Outcome:
        with gpu.slot(self.limit_at, self.stopped, cell):
            return worker.compute(cell, self.store, self.downloads, self.command, self._failures)

    def _bring(self, ref: Ref) -> bool:
        """Whether an input is here in the end; another process may be bringing it."""
        assert self.remote is not None
        while not self.remote.fetch(ref):
            lock = self.store.lock(ref.key)
            if try_lock(lock):
                lock.release()
                return self.store.has(ref.slot, ref.key)
            time.sleep(POLL_SECONDS)
        return True

    def stopped(self) -> bool:
        """Whether the run was stopped."""
        return self._workers.stopped

    def _wait(self, cell: Cell) -> None:
        """Waits until the process that computes a cell is done with it, or gone."""
        lock = self.store.lock(cell.key)
        while not self.stopped() and not self.store.has(cell.slot, cell.key):
            if try_lock(lock):
                lock.release()
                return
            time.sleep(POLL_SECONDS)

    def _ensure(self, cells: Sequence[Cell], told: set[str] | None) -> None:
        """Computes each asked cell once, whoever asks, all at the same time. Raises CellFailed where one fails that
        must not (`told` is None), or of whose failure (by key) whoever asks was told."""
        mine: list[tuple[Cell, Future[None]]] = []
        all_of_them: list[tuple[Cell, Future[None]]] = []
        with self._lock:
            for cell in cells:
                known = self._asked.get(cell.key)
                if known is None or (known.done() and known.exception() is None):
                    known = self._asked[cell.key] = Future()
                    mine.append((cell, known))
                all_of_them.append((cell, known))
        with ThreadPoolExecutor(max(1, len(mine))) as threads:
            list(threads.map(self._compute_asked, mine))
        for cell, future in all_of_them:
            try:
                future.result()
            except CellFailed as error:
                if told is None or cell.key in told or not error.reason:
                    raise
                self._failures[cell.key] = error.reason

    def _compute_asked(self, pair: tuple[Cell, Future[None]]) -> None:
        cell, future = pair
        try:
            self.run([cell])
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(None)

    def _log(self, outcome: Outcome) -> str:
        """Keeps the traceback of an unexpected error, and returns where, for the message."""
        if not outcome.trace:
            return ""
        path = self.store.root.parent / "logs" / "errors.log"
        entry = f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {self.command}\n{outcome.message}\n{outcome.trace}\n"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "a", encoding="utf-8") as file:
                file.write(entry)
        except OSError:
            return f"\n{outcome.trace}"
        return f"\nthe traceback is in {path}"

    @contextlib.contextmanager
    def _clock(self) -> Iterator[None]:
        begun = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self.busy_intervals.append((begun, time.monotonic()))

    def computing_seconds(self) -> float:
        """Seconds of wall time in which at least one cell was computing."""
        total, end = 0.0, float("-inf")
        for begin, stop in sorted(self.busy_intervals):
            total += max(0.0, stop - max(begin, end))
            end = max(end, stop)
        return total
