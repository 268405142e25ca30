"""Processes that compute for a parent: how they are started, talk with it, and end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import TextIO

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


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
