"""The project's Prefect server: reused where one answers, else started on loopback under a lock."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
from filelock import FileLock

from assay.plugins.values import AssayError

START_SECONDS = 90.0
IDLE_SECONDS = 900.0
BEAT_SECONDS = 30.0


def state_file(project: Path) -> Path:
    """Where the running server's address and process are written."""
    return project / ".assay" / "prefect" / "server.json"


def healthy(url: str) -> bool:
    """Whether a Prefect API answers at `url`."""
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=3) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError, ValueError):
        return False


def running(project: Path) -> str:
    """The address of the project's server, or '' where none answers."""
    try:
        url = str(json.loads(state_file(project).read_text(encoding="utf-8"))["url"])
    except (OSError, ValueError, KeyError):
        return ""
    return url if healthy(url) else ""


def ensure_server(project: Path) -> str:
    """The address of a Prefect server that answers: that of PREFECT_API_URL where it is set, else the
    project's own, which is started where none runs, serves all runs of the project and ends itself after
    a quarter of an hour without any.
    """
    given = os.environ.get("PREFECT_API_URL")
    if given and not healthy(given):
        raise AssayError(f"PREFECT_API_URL is {given}, and no Prefect server answers there: start it, or unset it")
    folder = state_file(project).parent
    folder.mkdir(parents=True, exist_ok=True)  # Prefect itself makes no folder above its own
    if given:
        return given
    with FileLock(folder / "server.lock"):
        url = running(project) or _awaited(project) or start(project)
    touch(project)
    return url


@contextlib.contextmanager
def in_use(project: Path) -> Iterator[None]:
    """Keeps the project's server from ending itself while the block runs."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT_SECONDS):
            touch(project)

    touch(project)
    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _awaited(project: Path) -> str:
    """The address of a server that was started and does not answer yet, as where its starter was stopped; ''
    where there is none. A second one beside it would be found by nobody."""
    try:
        known = json.loads(state_file(project).read_text(encoding="utf-8"))
        url, pid = str(known["url"]), int(known["pid"])
    except (OSError, ValueError, KeyError):
        return ""
    deadline = time.monotonic() + START_SECONDS
    while _is_server(pid, project):
        if healthy(url):
            return url
        if time.monotonic() > deadline:
            stop(project)
        time.sleep(0.3)
    return ""


def start(project: Path) -> str:
    """Starts a server on a free loopback port, in a process of its own that outlives this one."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    log = state_file(project).with_name("server.log")
    environment = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
    environment["PREFECT_HOME"] = str(log.parent.resolve())
    with open(log, "ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "assay.flows.server", str(project), str(port)],
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=environment,
        )
    state_file(project).write_text(json.dumps({"url": url, "pid": process.pid}), encoding="utf-8")
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if healthy(url):
            return url
        if process.poll() is not None:
            break
        time.sleep(0.3)
    raise AssayError(f"the Prefect server did not start; its log is {log}")


def stop(project: Path) -> bool:
    """Ends the project's server; False where none runs."""
    try:
        pid = int(json.loads(state_file(project).read_text(encoding="utf-8"))["pid"])
    except (OSError, ValueError, KeyError):
        return False
    if not _is_server(pid, project):
        state_file(project).unlink(missing_ok=True)
        return False
    os.killpg(pid, signal.SIGTERM)
    for _ in range(100):
        if not _is_server(pid, project):
            break
        time.sleep(0.1)
    else:
        os.killpg(pid, signal.SIGKILL)
    state_file(project).unlink(missing_ok=True)
    return True


def _is_server(pid: int, project: Path) -> bool:
    """Whether this process is the project's server: numbers of processes are used again."""
    try:
        line = psutil.Process(pid).cmdline()
    except psutil.Error:
        return False
    return "assay.flows.server" in line and str(project) in line


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def touch(project: Path) -> None:
    """Tells the server that it is in use."""
    used = state_file(project).parent / "used"
    used.parent.mkdir(parents=True, exist_ok=True)
    used.touch()


def keep_server(project: Path, port: int) -> None:
    """Runs a server until nobody has used it for a while."""
    touch(project)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    child = subprocess.Popen(command)
    used = state_file(project).parent / "used"

    def end(*_: object) -> None:
        child.terminate()

    signal.signal(signal.SIGTERM, end)
    while child.poll() is None:
        time.sleep(2)
        if not used.exists() or time.time() - used.stat().st_mtime > IDLE_SECONDS:
            child.terminate()
            break
    child.wait(30)
    state_file(project).unlink(missing_ok=True)


if __name__ == "__main__":
    keep_server(Path(sys.argv[1]), int(sys.argv[2]))
