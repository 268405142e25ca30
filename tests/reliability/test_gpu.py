"""GPU slots on a real Prefect server. Nothing here needs a GPU: the cells only say that they do."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from assay.flows import gpu, server
from assay.flows.executor import Executor
from assay.flows.local import run_groups
from assay.flows.workers import Stopped
from assay.plugins.values import AssayError
from assay.tasks import settings
from assay.tasks.cells import Cell, Env
from assay.tasks.store import Store

pytestmark = pytest.mark.server

STUB = """
import json, time

def work(job):
    begun = time.time()
    time.sleep(job.spec["seconds"])
    (job.out / "times.json").write_text(json.dumps([begun, time.time()]))
"""
HOLD = """
import sys, time
from assay.flows import gpu
from assay.tasks.cells import Cell, Env
cell = Cell("train", "train", "held", "x:y", {}, {}, "held", {}, "held", env=Env("cuda", 1, "."))
with gpu.slot(sys.argv[1], lambda: False, cell):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server that knows no limit yet."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PREFECT_HOME", "PREFECT_API_URL"):
            patch.delenv(name, raising=False)
        settings.apply(home)
        try:
            yield server.ensure_server(home)
        finally:
            server.stop(home)


@pytest.fixture
def limit(url: str) -> Iterator[Any]:
    """Sets the limit's slots; none is there before and after."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
    from prefect.exceptions import ObjectNotFound
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings(updates={PREFECT_API_URL: url}), get_client(sync_client=True) as client:

        def change(**values: Any) -> None:
            client.update_global_concurrency_limit(gpu.LIMIT, GlobalConcurrencyLimitUpdate(**values))

        yield change
        with contextlib.suppress(ObjectNotFound):
            client.delete_global_concurrency_limit_by_name(gpu.LIMIT)


def cell(name: str, folder: Path, device: str = "cuda", seconds: float = 0.5, devices: int = 1) -> Cell:
    """A cell that says it needs a device, or some, and notes when it computes."""
    spec = {"seconds": seconds, "recipe": {"devices": devices}}
    return Cell("train", "train", name, "gpu_stub:work", spec, {}, name, {}, name, env=Env(device, 1, str(folder)))


@pytest.fixture
def executor(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Executor]:
    """Three processes, which obey the server's limit."""
    (tmp_path / "gpu_stub.py").write_text(STUB)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Executor(Store(tmp_path / "store"), tmp_path, 3, 1, "a test", limit_at=url) as found:
        found.warm(3)
        yield found


def overlaps(executor: Executor, names: list[str]) -> int:
    """The most cells that computed at the same time."""
    times = [json.loads((executor.store.folder("train", name) / "times.json").read_text()) for name in names]
    return max(sum(begin <= moment < end for begin, end in times) for moment, _ in times)


def test_the_limit_is_made_kept_and_checked(url: str, limit: Any) -> None:
    assert gpu.ensure_limit(url, 2) == 2
    assert gpu.ensure_limit(url, 7) == 2  # it is the user's by now
    limit(limit=3)
    assert gpu.ensure_limit(url, 7) == 3
    for closed in ({"limit": 0}, {"limit": 3, "active": False}):
        limit(**closed)
        with pytest.raises(AssayError, match=r"lets nobody in: prefect gcl update gpu --enable --limit 7"):
            gpu.ensure_limit(url, 7)


@pytest.mark.parametrize(("slots", "together"), [(1, 1), (2, 2)])
def test_cells_hold_slots(executor: Executor, url: str, limit: Any, slots: int, together: int) -> None:
    gpu.ensure_limit(url, slots)
    names = ["one", "two", "three"]
    run_groups({name: [cell(name, executor.downloads)] for name in names}, executor.run)
    assert overlaps(executor, names) == together


def test_a_training_on_two_gpus_holds_two(executor: Executor, url: str, limit: Any) -> None:
    gpu.ensure_limit(url, 2)
    cells = [cell("one", executor.downloads), cell("two", executor.downloads, devices=2)]
    run_groups({cell.key: [cell] for cell in cells}, executor.run)
    assert overlaps(executor, ["one", "two"]) == 1


def test_more_slots_than_there_are(executor: Executor, url: str, limit: Any) -> None:
    """It would wait for ever."""
    gpu.ensure_limit(url, 2)
    text = r"train\.devices is 3, and Prefect's concurrency limit 'gpu' has 2 slots: prefect gcl update gpu --limit 3"
    with pytest.raises(AssayError, match=text):
        executor.run([cell("three", executor.downloads, devices=3)])


def test_other_cells_need_none(executor: Executor, url: str, limit: Any) -> None:
    gpu.ensure_limit(url, 1)
    with gpu.slot(url, lambda: False, cell("holds it", executor.downloads)):
        executor.run([cell("cpu", executor.downloads, "cpu", 0.0)])
    assert executor.computed == 1


def test_a_limit_that_is_missing_is_an_error(executor: Executor, url: str, limit: Any) -> None:
    """Prefect alone would pass over it."""
    with pytest.raises(AssayError, match="'gpu'"):
        executor.run([cell("one", executor.downloads)])
    assert not executor.store.has("train", "one")


def test_waiting_for_a_slot_ends_with_the_run(executor: Executor, url: str, limit: Any) -> None:
    gpu.ensure_limit(url, 1)
    ended: list[str] = []

    def wait() -> None:
        try:
            executor.run([cell("one", executor.downloads)])
        except Stopped:
            ended.append("stopped")

    with gpu.slot(url, lambda: False, cell("holds it", executor.downloads)):
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(1.0)
        executor.stop()
        thread.join(30)
    assert ended == ["stopped"]


@pytest.mark.cluster
def test_the_slot_of_a_process_that_was_killed(executor: Executor, url: str, limit: Any) -> None:
    """It is free again after its lease, of a minute."""
    gpu.ensure_limit(url, 1)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, url], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.wait()
    begun = time.monotonic()
    executor.run([cell("one", executor.downloads, seconds=0.0)])
    assert time.monotonic() - begun < 4 * gpu.LEASE_SECONDS
