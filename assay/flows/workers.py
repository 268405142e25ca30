"""The worker processes of a run, seen from the parent."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from assay.plugins.values import AssayError
from assay.tasks.cells import Cell
from assay.tasks.compute import Outcome
from assay.tasks.store import Store

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Stopped(AssayError):
    """The run was stopped: nothing more is computed."""


class WorkerDied(Exception):
    """A worker process ended in the middle of a cell; the text says how."""


class Worker:
    """One worker process. It computes one cell at a time."""

    def __init__(self, threads: int):
        environment = {**os.environ, **{name: str(threads) for name in THREAD_VARIABLES}}
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "assay.tasks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            encoding="utf-8",
            process_group=0,  # Ctrl-C in a terminal reaches the parent only
        )

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
            raise WorkerDied(_cause(self.process.wait()))
        return Outcome.from_json(json.loads(answer))

    def end(self) -> None:
        """Kills the process and waits until it is gone."""
        self.process.kill()
        self.process.wait()


def _cause(code: int) -> str:
    if code >= 0:
        return f"with exit code {code}"
    name = signal.Signals(-code).name
    return f"by {name}" + (" (the system does this where memory runs out)" if name == "SIGKILL" else "")


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
        self._lock = threading.Lock()

    def warm(self, count: int) -> None:
        """Starts up to `count` workers that have nothing to do yet: so nobody waits for their imports."""
        with self._lock:
            while not self.stopped and len(self._alive) < min(count, self.limit):
                worker = Worker(self.threads)
                self._alive.append(worker)
                self._idle.append(worker)

    @contextlib.contextmanager
    def borrow(self) -> Iterator[Worker]:
        """A worker for the calling thread alone. One that dies meanwhile is replaced for the next thread.
        Raises Stopped."""
        with self._slots:
            worker = self._take()
            try:
                yield worker
            finally:
                with self._lock:
                    if worker.process.poll() is None:
                        self._idle.append(worker)
                    elif worker in self._alive:
                        self._alive.remove(worker)

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
