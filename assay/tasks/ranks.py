"""The processes of a training on several devices: started by the one that computes the cell, and ended with it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from assay.plugins.contract import AssayError
from assay.tasks.group import Group
from assay.tasks.job import Job, ProcessDied
from assay.tasks.processes import cause, start

READY_SECONDS = 300.0
TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others in one operation."""
NOTICE_SECONDS = 5.0
GRACE_SECONDS = 30.0


@dataclass(frozen=True)
class Place:
    """A process's place in the group, and the file by which they find each other."""

    rank: int
    size: int
    backend: str
    file: str


@dataclass
class Other:
    """Another process of the group; `said` is its last word: `ready`, `done`, `failed`, or nothing."""

    name: str
    process: subprocess.Popen[str]
    said: Mapping[str, Any] = field(default_factory=dict)
    ended: bool = False

    def listen(self, over: threading.Event) -> None:
        """Keeps what it says. Where it ends too early this process is ended as well, if an operation that waits for
        the other one does not let it go: on a GPU it would wait for ever."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said = json.loads(line)
        self.process.wait()
        self.ended = True
        if not over.wait(GRACE_SECONDS):
            why = self.said.get("text", "")
            print(f"{self.name} ended {self.end()}; this one ends too. {why}", file=sys.stderr, flush=True)
            os._exit(1)

    def says(self, what: str) -> bool:
        """Whether that is its last word."""
        return self.said.get("what") == what

    def end(self) -> str:
        """How it ended."""
        return cause(self.process.wait())


@contextlib.contextmanager
def group_of(job: Job) -> Iterator[Group]:
    """Starts the other processes of a training's recipe, for the block, and is their first.

    Raises AssayError where there are not so many devices, and what went wrong in another process: ProcessDied where
    it was killed.
    """
    size = int(job.spec["recipe"]["devices"])
    backend = backend_for(job.device, size)
    folder = Path(tempfile.mkdtemp(prefix="assay-group-"))
    over = threading.Event()
    others: list[Other] = []
    try:
        places = [Place(rank, size, backend, str(folder / "meeting")) for rank in range(size)]
        for place in places[1:]:
            others.append(_started(job, place))
            threading.Thread(target=others[-1].listen, args=(over,), daemon=True).start()
        with _explained(others):
            _wait(others, "ready", READY_SECONDS)
        with joined(places[0], job.device) as group, _explained(others):
            yield group
            _wait(others, "done", TIMEOUT.total_seconds())
    finally:
        over.set()
        for other in others:
            other.process.kill()
            other.process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def backend_for(device: torch.device, size: int) -> str:
    """What the processes talk by. Raises AssayError where this machine has not so many devices."""
    if device.type == "cpu":
        return "gloo"
    there = torch.cuda.device_count()
    if there < size:
        raise AssayError(f"train.devices: {size} GPUs are wanted, and this machine has {there}")
    return "nccl"


@contextlib.contextmanager
def joined(place: Place, device: torch.device) -> Iterator[Group]:
    """The group, from the process at `place`."""
    from torch import distributed

    if device.type == "cuda":
        torch.cuda.set_device(place.rank % torch.cuda.device_count())
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
    os.environ.update(GLOO_SOCKET_IFNAME=loopback, NCCL_SOCKET_IFNAME=loopback)  # nobody else can connect
    store = distributed.FileStore(place.file, place.size)
    distributed.init_process_group(place.backend, store=store, rank=place.rank, world_size=place.size, timeout=TIMEOUT)
    try:
        yield Group(place.rank, place.size, device)
    finally:
        distributed.destroy_process_group()


def _started(job: Job, place: Place) -> Other:
    process = start("assay.tasks.rank", torch.get_num_threads())
    request = {
        "spec": job.spec,
        "inputs": {role: str(folder) for role, folder in job.inputs.items()},
        "out": str(job.out),
        "work": str(job.work),
        "device": job.device.type,
        "threads": torch.get_num_threads(),
        "place": asdict(place),
    }
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it ended already: whoever waits for it says so
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
    return Other(f"process {place.rank + 1} of {place.size}", process)


def _wait(others: Sequence[Other], what: str, seconds: float) -> None:
    """Waits for a word of all others. Raises RuntimeError where one fails, ends or says nothing."""
    end = time.monotonic() + seconds
    while not all(other.says(what) for other in others):
        if any(other.ended or other.says("failed") for other in others):
            raise RuntimeError("another process of the training failed")
        if time.monotonic() > end:
            raise RuntimeError(f"waited {seconds:.0f} s for the other processes of the training")
        time.sleep(0.01)


@contextlib.contextmanager
def _explained(others: Sequence[Other]) -> Iterator[None]:
    """Raises what went wrong in another process in place of the error of an operation that waited for it."""
    try:
        yield
    except RuntimeError as error:
        end = time.monotonic() + NOTICE_SECONDS
        while time.monotonic() < end:
            for other in others:
                if other.says("failed"):
                    raise _failure(other) from error
                if other.ended:
                    raise ProcessDied(f"{other.end()}: {other.name}") from error
            time.sleep(0.01)
        raise


def _failure(other: Other) -> Exception:
    if other.said["code"] is not None:
        known = AssayError(other.said["text"])
        known.code = other.said["code"]
        return known
    unknown = RuntimeError(f"{other.said['kind']} in {other.name}: {other.said['text']}")
    unknown.add_note(other.said["trace"])
    return unknown
