"""The executor with made-up cells: cells that ask for others, processes that die, the lock of the machine."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from assay.flows import executor as executor_module
from assay.flows.executor import CellFailed, Executor, Nobody
from assay.flows.local import dependencies, run_groups
from assay.flows.machine import machine_lock
from assay.flows.workers import Stopped
from assay.plugins.contract import BadInput
from assay.tasks import compute, job
from assay.tasks.artifacts import write_json
from assay.tasks.cells import Cell, Env
from assay.tasks.closure import read_source
from assay.tasks.compute import Stale, compute_one
from assay.tasks.store import Store

STUBS = """
import json, os, signal, time
from pathlib import Path
from assay.tasks.cells import Cell
from assay.tasks.lab import Pending
from assay.tasks.store import Store

def note(job, what):
    with open(job.spec["journal"], "a") as file:
        file.write(json.dumps([job.spec["name"], what, time.time()]) + "\\n")

def work(job):
    print("a method may print")
    asked = [Cell.from_json(cell) for cell in job.spec["asks"]]
    store = Store(Path(job.spec["root"]))
    missing = [cell for cell in asked if not store.has(cell.slot, cell.key)]
    if missing:
        raise Pending(missing, job.spec["may_fail"])
    note(job, "begin")
    time.sleep(job.spec["seconds"])
    dying = Path(job.spec["journal"]).with_name(job.spec["name"] + ".dies")
    if dying.exists():
        left = int(dying.read_text())
        dying.write_text(str(left - 1))
        if left > 0:
            os.kill(os.getpid(), signal.SIGKILL)
    if job.spec["name"].startswith("bad"):
        raise RuntimeError("made to fail")
    (job.out / "answer").write_text(job.spec["name"])
    note(job, "end")
"""


class Stage:
    """A store, a journal of what was computed, and cells to compute."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.store = Store(folder / ".assay" / "store")
        self.journal = folder / "journal"

    def cell(
        self,
        name: str,
        asks: Sequence[Cell] = (),
        seconds: float = 0.0,
        exclusive: bool = False,
        may_fail: bool = False,
    ) -> Cell:
        """A cell that notes when it computes."""
        asked = [cell.to_json() for cell in asks]
        spec = {
            "name": name,
            "asks": asked,
            "may_fail": may_fail,
            "seconds": seconds,
            "root": str(self.store.root),
            "journal": str(self.journal),
        }
        return Cell("train", "train", name, "stubs:work", spec, {}, name, {}, name, exclusive, Env("cpu", 1, "."))

    def executor(self, workers: int = 2, watcher: Any = None) -> Executor:
        """An executor on the store."""
        return Executor(self.store, self.folder, workers, 1, "a test", watcher or Nobody())

    def times(self, what: str) -> dict[str, list[float]]:
        """When each cell began or ended, by name."""
        found: dict[str, list[float]] = {}
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        for name, happened, at in map(json.loads, lines):
            if happened == what:
                found.setdefault(name, []).append(at)
        return found


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """A stage whose cells' code the workers can import."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "stubs.py").write_text(STUBS)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield Stage(tmp_path)
    sys.modules.pop("stubs", None)


def in_time(seconds: float, call: Any) -> Any:
    """Calls in a thread; a call that does not come back fails the test."""
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(call)
        try:
            return future.result(seconds)
        except TimeoutError:
            os._exit(70)  # nothing can end the threads that wait for each other


@pytest.mark.parametrize("workers", [1, 2])
def test_nested_and_overlapping_asks(stage: Stage, workers: int) -> None:
    """A random web of asks, several deep and shared: every cell is computed once and nobody waits for ever."""
    rng = random.Random(workers)
    layers: list[list[Cell]] = [[stage.cell(f"leaf{i}", seconds=0.01) for i in range(5)]]
    for depth in range(1, 4):
        below = [cell for layer in layers for cell in layer]
        layers.append([stage.cell(f"d{depth}-{i}", rng.sample(below, 3)) for i in range(5)])
    cells = [cell for layer in layers for cell in layer]
    groups = {cell.key: [cell] for cell in rng.sample(layers[3] + layers[2] + layers[1], 12)}
    with stage.executor(workers) as executor:
        in_time(120, lambda: run_groups(groups, executor.run))
    ended = stage.times("end")
    assert set(groups) <= set(ended) <= {cell.key for cell in cells}
    assert all(len(times) == 1 for times in ended.values())
    assert executor.computed == len(ended)


def test_what_is_asked_for_fails_with_its_own_message(stage: Stage) -> None:
    bad = stage.cell("bad")
    groups = {name: [stage.cell(name, [bad, stage.cell("fine")])] for name in ("one", "two")}
    with stage.executor() as executor, pytest.raises(CellFailed, match="bad: RuntimeError: made to fail"):
        in_time(60, lambda: run_groups(groups, executor.run))
    assert stage.store.has("train", "fine")


def test_what_may_fail_is_told_once(stage: Stage) -> None:
    """One that asks again for what it was told has failed, as no method does, ends instead of asking for ever."""
    asking = stage.cell("asking", [stage.cell("bad"), stage.cell("fine")], may_fail=True)
    with stage.executor() as executor, pytest.raises(CellFailed, match="bad: RuntimeError: made to fail") as caught:
        in_time(60, lambda: executor.run([asking]))
    assert caught.value.reason == "RuntimeError: made to fail"
    assert stage.store.has("train", "fine")
    assert len(stage.times("begin")["bad"]) == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("a wrong shape"), "ValueError: a wrong shape"),
        (BadInput("no such layer"), "no such layer"),
        (MemoryError("too large"), ""),
        (Stale("the source changed"), ""),
        (OSError(errno.ENOSPC, "no space"), ""),
    ],
)
def test_a_fault_of_the_machine_or_the_code_is_none_of_a_points(stage: Stage, error: Exception, reason: str) -> None:
    assert compute._failed(stage.cell("one"), error, 1.0, stage.store).reason == reason


def test_a_failure_stops_only_what_depends_on_it(stage: Stage) -> None:
    bad, other = stage.cell("bad"), stage.cell("other", seconds=0.2)
    after_bad = Cell(**{**stage.cell("after-bad").__dict__, "inputs": {"model": bad.ref}})
    after_other = Cell(**{**stage.cell("after-other").__dict__, "inputs": {"model": other.ref}})
    groups = {cell.key: [cell] for cell in (bad, other, after_bad, after_other)}
    with stage.executor() as executor, pytest.raises(CellFailed, match="bad"):
        run_groups(groups, executor.run)
    assert set(stage.times("end")) == {"other", "after-other"}
    log = (stage.store.root.parent / "logs" / "errors.log").read_text()
    assert "Traceback" in log
    assert "made to fail" in log
    assert list((stage.store.root / "work").glob("*")) == []


def test_a_process_that_dies_is_replaced(stage: Stage) -> None:
    (stage.folder / "fragile.dies").write_text("3")
    cells = [stage.cell("first"), stage.cell("fragile"), stage.cell("last")]
    with stage.executor(1) as executor:
        executor.run(cells)
    assert all(stage.store.damage("train", cell.key) == [] for cell in cells)
    assert len(stage.times("begin")["first"]) == 1, "what was done before the process died stays"


def test_a_process_that_dies_too_often_is_a_failure(stage: Stage) -> None:
    (stage.folder / "fragile.dies").write_text("99")
    with stage.executor(1) as executor, pytest.raises(CellFailed, match=r"fragile.*died 4 times.*SIGKILL"):
        executor.run([stage.cell("fragile")])
    assert not stage.store.has("train", "fragile")


def test_idle_workers_that_die_are_not_used(stage: Stage) -> None:
    with stage.executor(1) as executor:
        executor.run([stage.cell("one")])
        (worker,) = executor._workers._idle
        os.kill(worker.process.pid, signal.SIGKILL)
        worker.process.wait()
        executor.run([stage.cell("two")])
    assert worker.process.poll() is not None
    assert stage.store.has("train", "two")


def test_stop_ends_what_computes_and_what_waits(stage: Stage) -> None:
    executor = stage.executor(1)
    errors: list[BaseException] = []

    def run(name: str) -> None:
        try:
            executor.run([stage.cell(name, seconds=600)])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(name,)) for name in ("computes", "waits")]
    for thread in threads:
        thread.start()
    while not stage.times("begin"):
        time.sleep(0.02)
    (worker,) = executor._workers._alive
    executor.stop()
    for thread in threads:
        thread.join(10)
    assert [type(error) for error in errors] == [Stopped, Stopped]
    assert worker.process.poll() is not None


def test_two_executors_share_a_store(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one computes the other waits for and takes."""
    monkeypatch.setattr(executor_module, "POLL_SECONDS", 0.02)
    groups = {f"g{i}": [stage.cell(f"c{i}-{j}", seconds=0.02) for j in range(4)] for i in range(6)}
    with stage.executor(1) as a, stage.executor(1) as b, ThreadPoolExecutor(2) as threads:
        a.run([stage.cell("a is up")])
        b.run([stage.cell("b is up")])
        for future in [threads.submit(run_groups, groups, e.run) for e in (a, b)]:
            future.result(120)
    ended = stage.times("end")
    assert len(ended) == 26
    assert all(len(times) == 1 for times in ended.values())
    assert a.computed + b.computed == 26
    assert min(a.computed, b.computed) > 1


def test_measuring_cells_have_the_machine_alone(stage: Stage) -> None:
    """Also against another run's cells; and they come last in their own run."""
    alone = stage.cell("alone", seconds=0.3, exclusive=True)
    mine = {c.key: [c] for c in (*(stage.cell(f"mine{i}", seconds=0.05) for i in range(4)), alone)}
    other = {c.key: [c] for c in (stage.cell(f"other{i}", seconds=0.05) for i in range(30))}
    with stage.executor() as a, stage.executor(1) as b, ThreadPoolExecutor(2) as threads:
        for future in [threads.submit(run_groups, g, e.run) for g, e in ((mine, a), (other, b))]:
            future.result(120)
    begin, end = stage.times("begin"), stage.times("end")
    for name in begin:
        assert name == "alone" or end[name][0] <= begin["alone"][0] or begin[name][0] >= end["alone"][0]
    assert all(end[f"mine{i}"][0] <= begin["alone"][0] for i in range(4))
    assert dependencies(mine)["alone"] == {f"mine{i}" for i in range(4)}


def test_who_measures_is_not_kept_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream of others that never leaves the machine empty does not keep the one who wants it alone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    over = threading.Event()

    def share() -> None:
        while not over.is_set():
            with machine_lock(False, over.is_set):
                time.sleep(0.3)

    threads = [threading.Thread(target=share) for _ in range(4)]
    for i, thread in enumerate(threads):
        thread.start()
        time.sleep(0.07 * i)
    begun = time.monotonic()
    try:
        with machine_lock(True, lambda: time.monotonic() - begun > 20):
            pass
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_waiting_for_the_machine_ends_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with machine_lock(True, lambda: False), pytest.raises(Stopped), machine_lock(False, lambda: True):
        pass


def test_code_that_changed_since_the_plan(stage: Stage) -> None:
    """An answer computed by other code than its key says would be found again under that key."""
    digest = read_source(Path(job.__file__), "assay.tasks.job").digest
    cell = stage.cell("one")
    same, other, gone = (
        Cell(**{**cell.__dict__, "key": key, "ingredients": code})
        for key, code in (
            ("same", {"code.assay.tasks.job": digest, "version.torch": "1"}),
            ("other", {"code.assay.tasks.job": "0123456789abcdef"}),
            ("gone", {"code.assay.tasks.nowhere": digest}),
        )
    )
    assert compute_one(same, stage.store, stage.folder, "").status == "done"
    for changed, module in ((other, "assay.tasks.job"), (gone, "assay.tasks.nowhere")):
        outcome = compute_one(changed, stage.store, stage.folder, "")
        assert (outcome.status, outcome.code, outcome.trace) == ("failed", 1, "")
        assert f"the source of {module} changed" in outcome.message
        assert not stage.store.has("train", changed.key)


def test_leftovers_of_a_killed_commit(stage: Stage) -> None:
    """A process killed right after the rename leaves its work folder; right before it, a manifest."""
    with stage.executor(1) as executor:
        executor.run([stage.cell("one")])
        work, out = stage.store.begin("two")
        (work / "resume.safetensors").write_bytes(b"")
        write_json(out / "manifest.json", {"files": {}})
        executor.run([stage.cell("two")])
        stage.store.work("one").mkdir(parents=True)
        (stage.store.work("one") / "resume.safetensors").write_bytes(b"")
        stage.store.work("unfinished").mkdir(parents=True)
    assert stage.store.damage("train", "two") == []
    with stage.executor(1):
        assert not stage.store.work("one").exists()
        assert stage.store.work("unfinished").exists()
    assert [key for _, key, _ in stage.store.artifacts()] == ["one", "two"]
