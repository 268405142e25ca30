"""The worker processes of a run, seen from the parent."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from assay.plugins.values import AssayError
from assay.tasks.cells import Cell
from assay.tasks.compute import DIED, Outcome
from assay.tasks.processes import cause, start
from assay.tasks.store import Store


class Stopped(AssayError):
    """The run was stopped: nothing more is computed."""


class WorkerDied(Exception):
    """A worker process ended in the middle of a cell; the text says how."""


class Worker:
    """One worker process. It computes one cell at a time."""

    def __init__(self, threads: int):
        # Its own process group: Ctrl-C in a terminal reaches the parent only.
        self.process = start("assay.tasks.worker", threads, process_group=0)

    def compute(self, cell: Cell, store: Store, downloads: Path, command: str, failures: Mapping[str, str]) -> Outcome:
        """Computes a cell. Raises WorkerDied where the process ends before its answer."""
        request = {
            "cell": cell.to_json(),
            "root": str(store.root),
            "downloads": str(downloads),
            "command": command,
            "failures": dict(failures),
        }
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except (OSError, ValueError):  # the pipe is gone, or was closed by `end`
            answer = ""
        if not answer.endswith("\n"):
            raise WorkerDied(cause(self.process.wait()))
        outcome = Outcome.from_json(json.loads(answer))
        if outcome.status == DIED:
            self.end()
            raise WorkerDied(outcome.message)
        return outcome

    def end(self) -> None:
        """Kills the process and waits until it is gone."""
        self.process.kill()
        self.process.wait()


@dataclass
class Workers:
    """Up to `limit` worker processes, started when they are needed. Safe to use from several threads."""

    limit: int
    threads: int
    stopped: bool = False
    _alive: list[Worker] = field(default_factory=list)
    _idle: list[Worker] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._slots = threading.Semaphore(self.limit)
        self._lock, self._turn = threading.Lock(), threading.Lock()

    def warm(self, count: int) -> None:
        """Starts up to `count` workers that have nothing to do yet: so nobody waits for their imports."""
        with self._lock:
            while not self.stopped and len(self._alive) < min(count, self.limit):
                worker = Worker(self.threads)
                self._alive.append(worker)
                self._idle.append(worker)

    @contextlib.contextmanager
    def borrow(self, places: int = 1) -> Iterator[Worker]:
        """A worker for the calling thread alone, which counts as so many (as all, where there are not so many). One
        that dies meanwhile is replaced for the next thread. Raises Stopped."""
        with self._held(min(places, self.limit)):
            worker = self._take()
            try:
                yield worker
            finally:
                with self._lock:
                    if worker.process.poll() is None:
                        self._idle.append(worker)
                    elif worker in self._alive:
                        self._alive.remove(worker)

    @contextlib.contextmanager
    def _held(self, places: int) -> Iterator[None]:
        with self._turn:  # one thread at a time: two that hold a part of what they need would wait for ever
            for _ in range(places):
                self._slots.acquire()
        try:
            yield
        finally:
            self._slots.release(places)

    def _take(self) -> Worker:
        with self._lock:
            if self.stopped:
                raise Stopped("the run was stopped")
            while self._idle:
                worker = self._idle.pop()
                if worker.process.poll() is None:
                    return worker
                self._alive.remove(worker)
            self._alive.append(Worker(self.threads))
            return self._alive[-1]

    def stop(self) -> None:
        """Ends every worker, and whoever waits for one."""
        with self._lock:
            self.stopped = True
            alive, self._alive = self._alive, []
        for worker in alive:
            worker.end()
