"""Machines in miniature: folders with a project and a store each, processes of their own, servers on loopback."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from assay.flows import server
from assay.tasks.store import Store

DEADLINE = 420.0  # for a machine that is busy
SECRET = "s3cr3t-of-the-storage"
BUCKET = "assay-test"
Served = tuple[str, Path]
PARAMS: dict[str, Any] = {
    "seed": 0,
    "workers": 2,
    "prepare": ["source/digits"],
    "train": {"model": {"name": "mlp", "hidden": [32]}, "optimizer": {"name": "adamw", "lr": 0.01}, "epochs": 3},
    "compress": {"half": [{"name": "prune/magnitude", "sparsity": 0.5}]},
    "evaluate": ["accuracy/top1", "calibration/ece"],
}


def until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE) -> Any:
    """Waits for a condition and returns its value."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.1)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def kill_tree(pid: int) -> None:
    """Ends a process and all that it started at once, as a machine that loses power does."""
    try:
        process = psutil.Process(pid)
        everybody = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for each in everybody:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(everybody, timeout=20)


@dataclass
class Machine:
    """A project folder with a store of its own, and what is started there."""

    folder: Path
    environment: dict[str, str]
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def store(self) -> Store:
        """Its store."""
        return Store(self.folder / ".assay" / "store")

    @property
    def said(self) -> str:
        """What its commands printed beside their answers."""
        return "".join(
            path.read_text(encoding="utf-8") for path in sorted(self.folder.parent.glob(f"{self.name}-*.err"))
        )

    @property
    def name(self) -> str:
        """The machine's name."""
        return self.folder.name

    @property
    def params(self) -> dict[str, Any]:
        """Its params file."""
        found: dict[str, Any] = yaml.safe_load((self.folder / "params.yaml").read_text(encoding="utf-8"))
        return found

    def write(self, params: Mapping[str, Any]) -> None:
        """Writes its params file."""
        (self.folder / "params.yaml").write_text(yaml.safe_dump(dict(params), sort_keys=False), encoding="utf-8")

    def start(self, *arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Starts a command of Assay."""
        log = self.folder.parent / f"{self.name}-{len(self.started)}"
        with open(f"{log}.out", "w") as out, open(f"{log}.err", "w") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "assay.flows.cli", *arguments],
                cwd=self.folder,
                env={**self.environment, **(environment or {})},
                stdout=out,
                stderr=said,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def out(self, process: subprocess.Popen[bytes]) -> str:
        """What a command answered."""
        return (self.folder.parent / f"{self.name}-{self.started.index(process)}.out").read_text(encoding="utf-8")

    def run(self, *arguments: str) -> tuple[int, Any]:
        """Runs `assay run` to its end."""
        return self.ask("run", *arguments)

    def ask(self, *arguments: str) -> tuple[int, Any]:
        """Runs a command with `--json` to its end: exit code and answer (None where it failed)."""
        process = self.start(*arguments, "--json")
        code = process.wait(DEADLINE)
        text = self.out(process)
        return code, json.loads(text) if text else None

    def do(self, *arguments: str) -> int:
        """Runs another command to its end."""
        return self.start(*arguments).wait(DEADLINE)

    def stop(self) -> None:
        """Ends all that was started here."""
        for process in self.started:
            if process.poll() is None:
                kill_tree(process.pid)


@dataclass
class Cluster:
    """A Prefect server, a remote, and machines."""

    folder: Path
    environment: dict[str, str]
    remote: str
    url: str
    server: Path
    machines: list[Machine] = field(default_factory=list)

    def machine(self, name: str, params: Mapping[str, Any] = PARAMS, remote: bool = True) -> Machine:
        """A new machine."""
        (self.folder / name).mkdir()
        found = Machine(self.folder / name, self.environment)
        found.write({**params, "store": {"remote": self.remote}} if remote else params)
        self.machines.append(found)
        return found

    def worker(self, machine: Machine, pool: str, **environment: str) -> subprocess.Popen[bytes]:
        """A worker on a machine, once it is up."""
        process = machine.start("worker", "--pool", pool, "--limit", "1", environment=environment)
        until(lambda: "started!" in machine.said or process.poll() is not None, "a worker")
        assert process.poll() is None, machine.said
        return process

    def flow_runs(self, pool: str) -> list[dict[str, Any]]:
        """Every flow run that was handed to a pool."""
        asked = {"limit": 200, "work_pools": {"name": {"any_": [pool]}}}
        request = urllib.request.Request(
            f"{self.url}/flow_runs/filter", json.dumps(asked).encode(), {"content-type": "application/json"}
        )

        def ask() -> list[dict[str, Any]] | None:
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    return list(json.loads(answer.read()))
            except urllib.error.HTTPError:  # 503 while the server's database is busy
                return None

        return list(until(ask, "the Prefect server", 60))

    def everything_said(self) -> str:
        """All that was printed anywhere, and all files that machines and the server wrote, as text."""
        everything = [*self.folder.rglob("*"), *self.server.rglob("*")]
        files = [path for path in everything if path.is_file() and path.suffix != ".npy"]
        return "".join(path.read_bytes().decode(errors="replace") for path in files)


@pytest.fixture(name="until", scope="session")
def _until() -> Callable[..., Any]:
    return until


@pytest.fixture(name="kill_tree", scope="session")
def _kill_tree() -> Callable[[int], None]:
    return kill_tree


@pytest.fixture(name="free_port", scope="session")
def _free_port() -> Callable[[], int]:
    return free_port


@pytest.fixture
def machine_at() -> Iterator[Callable[[Path, dict[str, str]], Machine]]:
    """Makes a machine with an environment of its own."""
    made: list[Machine] = []

    def make(folder: Path, environment: dict[str, str]) -> Machine:
        folder.mkdir()
        made.append(Machine(folder, environment))
        made[-1].write(PARAMS)
        return made[-1]

    yield make
    for machine in made:
        machine.stop()


@pytest.fixture
def bucket() -> str:
    """The S3 server's bucket."""
    return BUCKET


@pytest.fixture
def secret() -> str:
    """The storage's secret."""
    return SECRET


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What every machine's processes find; the lock of the machine is the test's own."""
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("PREFECT_", "MLFLOW_", "AWS_", "ASSAY_", "DASK_"))}
    path = [path for path in [os.getcwd(), *os.environ.get("PYTHONPATH", "").split(os.pathsep)] if path]
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(path)),
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "TMPDIR": str(tmp_path_factory.mktemp("tmp")),
    }


@pytest.fixture(scope="session")
def s3() -> Iterator[dict[str, str]]:
    """An S3 server on loopback with an empty bucket; yields the environment that reaches it."""
    for library, distribution in (("moto", "moto"), ("s3fs", "s3fs"), ("boto3", "boto3")):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{distribution} is not installed: `make test-cluster` installs it (the extra `cluster`)")
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    reach = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "assay-tester",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        until(lambda: _answers(reach["AWS_ENDPOINT_URL"]), "the S3 server", 60)
        import boto3

        boto3.client(
            "s3",
            endpoint_url=reach["AWS_ENDPOINT_URL"],
            aws_access_key_id=reach["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
        ).create_bucket(Bucket=BUCKET)
        yield reach
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError):
        return bool(urllib.request.urlopen(url, timeout=3).status == 200)
    return False


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A Prefect server that nothing is deployed on yet: its address, and its folder."""
    home = tmp_path_factory.mktemp("server")
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("PREFECT_HOME", "PREFECT_API_URL"):
                patch.delenv(name, raising=False)
            url = server.ensure_server(home)
        with server.in_use(home):
            yield url, home
    finally:
        server.stop(home)


FOLDER = pytest.param("folder", marks=pytest.mark.server)
S3 = pytest.param("s3", marks=pytest.mark.cluster)


@pytest.fixture(scope="module", params=[FOLDER, S3])
def anywhere(request: pytest.FixtureRequest, prefect_server: Served, environment: dict[str, str]) -> Iterator[Cluster]:
    """Machines with a Prefect server and a remote of this file's own: a folder, which `make test` takes, and S3."""
    with machines(request, prefect_server, environment) as found:
        yield found


@pytest.fixture(scope="module", params=[S3])
def cluster(request: pytest.FixtureRequest, prefect_server: Served, environment: dict[str, str]) -> Iterator[Cluster]:
    """The same on S3 alone."""
    with machines(request, prefect_server, environment) as found:
        yield found


@contextlib.contextmanager
def machines(request: pytest.FixtureRequest, served: Served, environment: dict[str, str]) -> Iterator[Cluster]:
    """A cluster without machines; those that it gets end with it."""
    s3 = request.getfixturevalue("s3") if request.param == "s3" else {}
    folder = request.getfixturevalue("tmp_path_factory").mktemp(request.param)
    remote = f"s3://{BUCKET}/{folder.name}" if s3 else f"file://{folder / 'remote'}"
    url, home = served
    found = Cluster(folder, {**environment, **s3, "PREFECT_API_URL": url}, remote, url, home)
    try:
        yield found
    finally:
        for machine in found.machines:
            machine.stop()
