"""`assay ui` with real servers, and `assay ui --stop`, which ends those of its project and no others."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from assay.flows import pages, server
from assay.plugins.values import AssayError

pytestmark = pytest.mark.server

DEADLINE = 300.0  # for a machine that is busy
ASSAY = [sys.executable, "-m", "assay.flows.cli"]


@dataclass
class Ui:
    """A running `assay ui`."""

    folder: Path
    process: subprocess.Popen[str]
    mlflow: str
    prefect: str

    @property
    def session(self) -> int:
        """The process that leads MLflow's server."""
        state = pages.state_folder(self.folder) / f"{self.process.pid}.json"
        return int(json.loads(state.read_text(encoding="utf-8"))["mlflow"])


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    return {**kept, "PYTHONUNBUFFERED": "1", **more}


def start(folder: Path, **more: str) -> Ui:
    """Starts `assay ui` in a folder and waits until it has said where the pages are."""
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [*ASSAY, "ui"], cwd=folder, env=environment(**more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    said = ""
    while "Ctrl-C ends this" not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    found = dict(re.findall(r"^(MLflow|Prefect): +(\S+)$", said, re.MULTILINE))
    return Ui(folder, process, found["MLflow"], found["Prefect"])


def stop(folder: Path) -> str:
    """What `assay ui --stop` says."""
    done = subprocess.run(
        [*ASSAY, "ui", "--stop"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.strip()


def members(leader: int) -> list[int]:
    """The processes of a session."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (OSError, psutil.Error):
            continue
    return found


def addresses(leader: int) -> set[str]:
    """Where a session's processes listen."""
    found = set()
    for pid in members(leader):
        listening = [c for c in psutil.Process(pid).net_connections("inet") if c.status == psutil.CONN_LISTEN]
        found |= {connection.laddr.ip for connection in listening}
    return found


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ui, Ui]]:
    """The pages of two projects; the second uses the first's Prefect server, to start one less."""
    root = tmp_path_factory.mktemp("ui")
    started: list[Ui] = []
    try:
        started.append(start(root / "one"))
        started.append(start(root / "two", PREFECT_API_URL=f"{started[0].prefect}/api"))
        yield started[0], started[1]
    finally:
        for found in started:
            pages.stop(found.folder)
            server.stop(found.folder)
            found.process.wait(DEADLINE)


def test_stop_ends_what_ui_started_for_the_project_and_nothing_else(pair: tuple[Ui, Ui]) -> None:
    one, two = pair
    leader = one.session
    assert len(members(leader)) >= 2  # MLflow's command, and the server that it started
    assert addresses(leader) == {"127.0.0.1"}
    assert all(url.startswith("http://127.0.0.1:") for url in (one.mlflow, one.prefect, two.mlflow))
    assert server.healthy(one.mlflow)

    assert stop(one.folder) == "stopped MLflow's pages and the Prefect server"
    assert one.process.wait(DEADLINE) == 0
    assert one.process.stdout is not None
    assert one.process.stdout.read().strip() == "stopped"
    assert members(leader) == []
    assert not server.healthy(one.mlflow)
    assert not server.healthy(f"{one.prefect}/api")
    assert list(pages.state_folder(one.folder).iterdir()) == []
    assert stop(one.folder) == "no server runs"

    assert two.process.poll() is None
    assert server.healthy(two.mlflow)


def test_a_taken_port_is_said(pair: tuple[Ui, Ui], tmp_path: Path) -> None:
    _, two = pair
    port = int(two.mlflow.rpartition(":")[2])
    with pytest.raises(AssayError, match=f"port {port} is taken"), pages.registered(tmp_path) as state:
        pages.mlflow(tmp_path, "sqlite:///none.db", port, state).__enter__()


def test_stop_ends_the_server_that_a_killed_ui_left(pair: tuple[Ui, Ui]) -> None:
    _, two = pair
    leader = two.session
    two.process.kill()
    two.process.wait(DEADLINE)
    assert server.healthy(two.mlflow)
    assert stop(two.folder) == "stopped MLflow's pages"
    assert members(leader) == []
    assert list(pages.state_folder(two.folder).iterdir()) == []


def test_stop_leaves_a_process_that_has_an_old_number(tmp_path: Path) -> None:
    """A file that an `assay ui` left names processes; both numbers are other processes' by now."""
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    try:
        folder = pages.state_folder(tmp_path)
        folder.mkdir(parents=True)
        (folder / f"{other.pid}.json").write_text(json.dumps({"mlflow": other.pid}), encoding="utf-8")
        (folder / "1.json").write_text("half a fi", encoding="utf-8")
        assert not pages.stop(tmp_path)
        time.sleep(0.5)
        assert other.poll() is None
        assert list(folder.iterdir()) == []
    finally:
        os.killpg(other.pid, signal.SIGKILL)
        other.wait()
