"""MLflow's pages of a project: a server on loopback for as long as an `assay ui` runs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from filelock import FileLock

from assay.flows import server
from assay.plugins.values import AssayError
from assay.tasks import mlflow_at, track
from assay.tasks.store import try_lock

START_SECONDS = 90.0
END_SECONDS = 20.0
ARTIFACTS = "MLFLOW_DEFAULT_ARTIFACT_ROOT"


def state_folder(project: Path) -> Path:
    """Where each `assay ui` of the project keeps `<its pid>.lock`, held while it lives, and `<its pid>.json`,
    which names its MLflow server's process."""
    return project / ".assay" / "ui"


@contextlib.contextmanager
def registered(project: Path) -> Iterator[Path]:
    """Lets `stop` find this process while the block runs, and end it as Ctrl-C does; yields its state file."""
    folder = state_folder(project)
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / f"{os.getpid()}.json"

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        with FileLock(state.with_suffix(".lock")):
            state.write_text("{}", encoding="utf-8")
            yield state
    finally:
        state.unlink(missing_ok=True)
        state.with_suffix(".lock").unlink(missing_ok=True)
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def mlflow(project: Path, uri: str, port: int, state: Path) -> Iterator[subprocess.Popen[bytes]]:
    """MLflow's server on loopback over the project's database, from when it answers to the end of the block.
    The address of the database may hold a password, so it goes by environment."""
    if server.healthy(f"http://127.0.0.1:{port}"):
        raise AssayError(f"port {port} is taken: another server answers there")
    track.create_database(project)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,
        ARTIFACTS: mlflow_at.artifact_root(project),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    # A session of its own: the server has children, and all of them are ended together.
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        state.write_text(json.dumps({"mlflow": process.pid}), encoding="utf-8")
        deadline = time.monotonic() + START_SECONDS
        while not server.healthy(f"http://127.0.0.1:{port}"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssayError(f"MLflow's server did not start on port {port}: is the port taken?")
            time.sleep(0.3)
        yield process
    finally:
        _end_session(process.pid)
        process.wait(END_SECONDS)


def stop(project: Path) -> bool:
    """Ends every `assay ui` of the project, with its MLflow server; also the server of one that was killed.
    False where there is none."""
    found = False
    for state in sorted(state_folder(project).glob("*.json")):
        lock = FileLock(state.with_suffix(".lock"))
        if _held(lock):  # so its process lives, and the number is no other's
            os.kill(int(state.stem), signal.SIGTERM)
            deadline = time.monotonic() + 2 * END_SECONDS
            while _held(lock) and time.monotonic() < deadline:
                time.sleep(0.1)
            if _held(lock):
                os.kill(int(state.stem), signal.SIGKILL)
            found = True
        found = _end_orphan(state, project) or found
        state.unlink(missing_ok=True)
        state.with_suffix(".lock").unlink(missing_ok=True)
    return found


def _held(lock: FileLock) -> bool:
    if not try_lock(lock):
        return True
    lock.release()
    return False


def _end_orphan(state: Path, project: Path) -> bool:
    """Ends the MLflow server that an `assay ui` left which could not clean up."""
    try:
        pid = int(json.loads(state.read_text(encoding="utf-8"))["mlflow"])
        # The number may be another process's by now.
        own = psutil.Process(pid).environ().get(ARTIFACTS) == mlflow_at.artifact_root(project)
    except (OSError, ValueError, KeyError, psutil.Error):
        return False
    if own:
        _end_session(pid)
    return own


def _end_session(leader: int) -> None:
    """Ends all processes of the session that a process leads."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + END_SECONDS
        if _alive(leader):
            os.killpg(leader, kind)
        while _alive(leader) and time.monotonic() < deadline:
            time.sleep(0.1)


def _alive(leader: int) -> bool:
    """Whether a session has processes that have not ended."""
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getpgid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                return True
    return False
