"""Computes one cell in this process: seeds, threads, lock, artifact; and says what came of it."""

from __future__ import annotations

import functools
import importlib
import json
import os
import platform
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from assay.plugins.contract import AssayError
from assay.tasks.cells import Cell, has_lab, machine
from assay.tasks.closure import load_cache, module_file, read_source, version
from assay.tasks.disk import full_text, is_full
from assay.tasks.job import Job, ProcessDied, prepare_process
from assay.tasks.lab import CellLab, Pending
from assay.tasks.settings import importable
from assay.tasks.store import Store, try_lock

PROGRESS_SECONDS = 0.5
THERE = ("done", "hit")
DIED = "died"


@dataclass(frozen=True)
class Outcome:
    """What came of a cell: `done`, `hit`, `busy` (another process computes it), `pending` (cells to compute
    first, which `may_fail`), `died` (a process that shared the work, as the message says) or `failed` with a message,
    an exit code and a traceback for the log. `reason` is why, where the fault lies in what was asked: it
    would fail again, on any machine."""

    key: str
    status: str
    seconds: float = 0.0
    message: str = ""
    code: int = 1
    trace: str = ""
    pending: tuple[Mapping[str, Any], ...] = ()
    may_fail: bool = False
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Outcome:
        """The outcome that `to_json` gave."""
        return Outcome(**{**value, "pending": tuple(value["pending"])})


class Stale(AssayError):
    """The code is no longer what the run was planned with."""


def compute_one(
    cell: Cell, store: Store, downloads: Path, command: str, failures: Mapping[str, str] = MappingProxyType({})
) -> Outcome:
    """Computes one cell, unless it is there or another process has it. `failures` are the reasons, by key, why cells
    that it asked for and that may fail did."""
    started = time.time()
    importable(Path(cell.env.project))
    try:
        if store.has(cell.slot, cell.key):
            return Outcome(cell.key, "hit")
        lock = store.lock(cell.key)
        if not try_lock(lock):
            return Outcome(cell.key, "busy")
        try:
            return _compute_locked(cell, store, downloads, command, started, failures)
        finally:
            store.drop_work(cell.key)
            lock.release()
    except Pending as pending:
        cells = tuple(c.to_json() for c in pending.cells)
        return Outcome(cell.key, "pending", pending=cells, may_fail=pending.may_fail)
    except ProcessDied as death:
        return Outcome(cell.key, DIED, message=str(death))
    except (Exception, SystemExit) as error:
        return _failed(cell, error, time.time() - started, store)


def _compute_locked(
    cell: Cell, store: Store, downloads: Path, command: str, started: float, failures: Mapping[str, str]
) -> Outcome:
    if store.has(cell.slot, cell.key):
        return Outcome(cell.key, "hit")
    changed = changed_code(cell)
    if changed:
        raise Stale(f"the source of {', '.join(changed)} changed since the run was planned: run it again")
    work, out = store.begin(cell.key)
    prepare_process(int(cell.spec.get("seed", 0)), cell.env.threads)
    run_task(cell, store, work, out, downloads, failures)
    seconds = time.time() - started
    store.commit(cell.slot, cell.key, manifest(cell, started, seconds, command))
    return Outcome(cell.key, "done", seconds)


def changed_code(cell: Cell) -> list[str]:
    """Modules that are not what the cell's key was made of (any more): what they compute is not its answer."""
    project = Path(cell.env.project)
    _load_digests(project)
    changed = []
    for name, digest in cell.ingredients.items():
        kind, _, module = name.partition(".")
        if kind != "code":
            continue
        path = module_file(module, project)
        try:
            same = path is not None and read_source(path, module).digest == digest
        except (OSError, SyntaxError):
            same = False
        if not same:
            changed.append(module)
    return changed


@functools.cache
def _load_digests(project: Path) -> None:
    load_cache(project / ".assay" / "cache" / "code.json")


def _failed(cell: Cell, error: BaseException, seconds: float, store: Store) -> Outcome:
    if is_full(error):
        return Outcome(cell.key, "failed", seconds, f"{cell.label}: {full_text(store.root)}")
    if isinstance(error, AssayError):
        reason = "" if isinstance(error, Stale) else str(error)
        return Outcome(cell.key, "failed", seconds, f"{cell.label}: {error}", error.code, reason=reason)
    text = f"{type(error).__name__}: {error}"
    reason = "" if isinstance(error, MemoryError | torch.OutOfMemoryError) else text
    return Outcome(cell.key, "failed", seconds, f"{cell.label}: {text}", 1, traceback.format_exc(), reason=reason)


def run_task(
    cell: Cell, store: Store, work: Path, out: Path, downloads: Path, failures: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Calls the cell's task function."""
    device = torch.device(cell.env.device)
    job = Job(
        spec=cell.spec,
        inputs={role: store.folder(ref.slot, ref.key) for role, ref in cell.inputs.items()},
        out=out,
        work=work,
        device=device,
        downloads=downloads,
        progress=progress_file(work),
        lab=CellLab(cell, store, device, failures) if has_lab(cell.spec) else None,
    )
    module, _, name = cell.task.partition(":")
    getattr(importlib.import_module(module), name)(job)


def progress_file(work: Path) -> Callable[[int, int, str], None]:
    """A reporter that writes `progress.json` in the work folder, at most twice a second."""
    last = 0.0

    def report(done: int, total: int, note: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > PROGRESS_SECONDS:
            last = now
            temporary = work / "progress.tmp"
            temporary.write_text(json.dumps([done, total, note]), encoding="utf-8")
            os.replace(temporary, work / "progress.json")

    return report


def manifest(cell: Cell, started: float, seconds: float, command: str) -> dict[str, Any]:
    """What the artifact's manifest says beside its files."""
    return {
        "format": 1,
        "label": cell.label,
        "task": cell.task,
        "spec": cell.spec,
        "inputs": {role: [ref.slot, ref.key] for role, ref in cell.inputs.items()},
        "ingredients": cell.ingredients,
        "versions": {"python": platform.python_version(), **{n: version(n) for n in ("assay", "torch", "numpy")}},
        "machine": {**machine(), "capability": torch.backends.cpu.get_cpu_capability()},
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(seconds, 3),
        "command": command,
    }
