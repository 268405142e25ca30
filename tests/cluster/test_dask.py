"""`--runner dask`: groups as tasks of a cluster of two processes here, and of one that was started elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from assay.flows.executor import CellFailed
from assay.flows.local import run_groups
from assay.tasks.cells import Cell, Env, make
from assay.tasks.store import Store

pytest.importorskip("distributed", reason="distributed is not installed: `make test-cluster` does it")

from assay.flows.dask_runner import DaskExecutor, open_client

pytestmark = pytest.mark.cluster

STUB = """
import json, os, pathlib, signal, time

def work(job):
    (job.out / "where.json").write_text(json.dumps([os.getppid(), time.time()]))
    dies = pathlib.Path(job.spec["dies"])
    if dies.is_file() and int(dies.read_text()) > 0:
        dies.write_text(str(int(dies.read_text()) - 1))
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    time.sleep(job.spec["seconds"])
    (job.out / "until.json").write_text(json.dumps(time.time()))
"""


def cell(name: str, folder: Path, seconds: float = 2.0, dies: str = "") -> Cell:
    """A cell that says in which process it was computed."""
    spec = {"name": name, "seconds": seconds, "dies": dies}
    return make("train", "train", name, f"stub_{folder.name}:work", spec, {}, Env("cpu", 1, str(folder)), name)


@pytest.fixture
def executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DaskExecutor]:
    """An executor on a cluster of two processes."""
    (tmp_path / f"stub_{tmp_path.name}.py").write_text(STUB)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    session: Any = SimpleNamespace(project=tmp_path, workers=2, remote=None)
    store = Store(tmp_path / "store")
    with (
        open_client(session) as (client, local),
        DaskExecutor(store, tmp_path, 2, 1, "a test", client=client, project=tmp_path) as found,
    ):
        assert local
        yield found
    assert not (tmp_path / "home").exists()  # nothing is written there


def test_two_processes_compute(executor: DaskExecutor) -> None:
    cells = [cell(name, executor.downloads) for name in ("one", "two", "three")]
    run_groups({each.label: [each] for each in cells}, executor.run)
    folders = [executor.store.folder(each.slot, each.key) for each in cells]
    where = [json.loads((folder / "where.json").read_text()) for folder in folders]
    ends = [json.loads((folder / "until.json").read_text()) for folder in folders]
    assert len({parent for parent, _ in where}) == 2
    assert os.getpid() not in {parent for parent, _ in where}
    assert max(sum(begin <= moment < end for (_, begin), end in zip(where, ends)) for _, moment in where) == 2
    assert executor.computed == 3


def test_a_dask_worker_that_dies(executor: DaskExecutor) -> None:
    dies = executor.downloads / "dies"
    dies.write_text("1")
    executor.run([cell("one", executor.downloads, 0.0, str(dies))])
    assert executor.computed == 1
    dies.write_text("99")
    with pytest.raises(CellFailed, match=r"two: its process died 4 times, the last time with its Dask worker"):
        executor.run([cell("two", executor.downloads, 0.0, str(dies))])


def test_a_run_on_dask_says_what_a_run_alone_says(cluster: Any) -> None:
    """With the Prefect flow and its tasks around it, and no remote: both processes use the project's store."""
    alone, dask = cluster.machine("dask-alone", remote=False), cluster.machine("dask-local", remote=False)
    code, expected = alone.run("--no-server")
    assert code == 0, alone.said
    code, answer = dask.run("--runner", "dask")
    assert code == 0, dask.said
    assert (answer["rows"], answer["computed"]) == (expected["rows"], expected["computed"])
    code, answer = dask.run("--runner", "dask", "--no-server")
    assert (code, answer["computed"]) == (0, 0)
    sweep = ["sweep", "--grid", "compress.half.0.sparsity=0.3,0.5,0.7", "--no-server"]
    (code, points), (_, expected) = dask.ask(*sweep, "--runner", "dask"), alone.ask(*sweep)
    assert code == 0, dask.said
    assert (points["points"], points["computed"]) == (expected["points"], expected["computed"])


def test_a_cluster_elsewhere(cluster: Any, until: Any) -> None:
    """It has a project and a store of its own; artifacts travel through the remote."""
    parent, other = cluster.machine("dask-parent"), cluster.machine("dask-elsewhere")
    log = other.folder / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    environment = {**cluster.environment, "DASK_CONFIG": str(other.folder)}
    started = [
        subprocess.Popen(
            [*command, "--no-dashboard", "--scheduler-file", str(log)], cwd=other.folder, env=environment, **quiet
        )
    ]
    other.started.extend(started)
    address = until(lambda: log.exists() and json.loads(log.read_text() or "{}").get("address"), "the scheduler", 60)
    command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"]
    other.started.append(subprocess.Popen(command, cwd=other.folder, env=environment, **quiet))
    parent.environment = {**parent.environment, "DASK_SCHEDULER_ADDRESS": address}
    code, answer = parent.run("--runner", "dask", "--no-server")
    assert code == 0, parent.said
    assert answer["computed"] > 0
    labels = {other.store.manifest(slot, key)["label"] for slot, key, _ in other.store.artifacts()}
    assert {"train dense", "evaluate half accuracy/top1"} <= labels
    parent.write({**parent.params, "store": {}})
    assert parent.do("run", "--runner", "dask", "--no-server") == 2
    assert f"--runner dask at {address} needs a store that its machines share" in parent.said


def test_options_that_contradict(cluster: Any) -> None:
    machine = cluster.machine("dask-options")
    assert machine.do("run", "--runner", "ray") == 2
    assert machine.do("run", "--runner", "dask", "--pool", "p") == 2
    assert machine.do("run", "--no-server", "--pool", "p") == 2
    for words in ("use local or dask", "give one of them", "leave out --no-server"):
        assert words in machine.said
