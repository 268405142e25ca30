"""A worker process: computes one cell after the other for its parent, and ends when the parent is gone.

Started as `python -m assay.tasks.worker`. A request is a line of JSON on standard input, its answer (an
outcome) a line on standard output. What methods print goes to standard error.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import TextIO

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def main() -> None:
    """Answers requests until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    requests, answers = pipes()
    waiting: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=leave_with, args=(requests, waiting.put), daemon=True).start()
    gc.disable()  # nothing that is imported is garbage, now or later
    from assay.tasks.cells import Cell
    from assay.tasks.compute import compute_one
    from assay.tasks.store import Store

    gc.freeze()
    gc.enable()
    while True:
        request = json.loads(waiting.get())
        cell, store = Cell.from_json(request["cell"]), Store(Path(request["root"]))
        outcome = compute_one(cell, store, Path(request["downloads"]), request["command"])
        answers.write(json.dumps(outcome.to_json()) + "\n")
        answers.flush()


def start(module: str, threads: int, process_group: int | None = None) -> subprocess.Popen[str]:
    """A Python process that runs `module`, with the import path of this one, and pipes to talk with it."""
    environment = {**os.environ, **{name: str(threads) for name in THREAD_VARIABLES}}
    environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        encoding="utf-8",
        process_group=process_group,
    )


def cause(code: int) -> str:
    """How a process ended, by its exit code."""
    if code >= 0:
        return f"with exit code {code}"
    name = signal.Signals(-code).name
    return f"by {name}" + (" (the system does this where memory runs out)" if name == "SIGKILL" else "")


def pipes() -> tuple[TextIO, TextIO]:
    """The parent's requests and where it reads answers; what is printed goes to standard error from now on."""
    requests, answers = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return requests, answers


def leave_with(requests: TextIO, take: Callable[[str], object] = str) -> None:
    """Takes each request, and ends the process as soon as the parent is gone, also in the middle of a cell:
    artifacts appear whole or not at all."""
    for line in requests:
        take(line)
    os._exit(1)


if __name__ == "__main__":
    main()
