"""MLflow under trouble: several processes on a fresh database, senders and servers killed, a server away."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch

import assay
from assay.tasks import mlflow_at, settings, track
from assay.tasks.artifacts import load_model

pytestmark = pytest.mark.server

PARAMS: dict[str, Any] = {
    "seed": 0,
    "device": "cpu",
    "workers": 1,
    "prepare": ["source/digits", {"name": "transform/subset", "train": 300, "test": 120}],
    "train": {"model": {"name": "mlp", "hidden": [16]}, "optimizer": {"name": "adamw", "lr": 0.01}, "epochs": 1},
    "compress": {
        "half": [{"name": "prune/magnitude", "sparsity": 0.5}],
        "light": [{"name": "prune/magnitude", "sparsity": 0.3}],
    },
    "attribute": {"saliency": []},
    "evaluate": ["accuracy/top1", "calibration/ece"],
}
MODELS = ("dense", "half", "light")
SECRET = "pa55w0rd"
DEADLINE = 120.0


@pytest.fixture(scope="module", autouse=True)
def _environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PREFECT_HOME", "PREFECT_API_URL", "MLFLOW_TRACKING_URI", "ASSAY_DOWNLOADS"):
            patch.delenv(name, raising=False)
        settings.apply(tmp_path_factory.mktemp("home"))
        yield


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose finished run waits in the outbox."""
    folder = tmp_path_factory.mktemp("waiting") / "project"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        result = assay.run(PARAMS, project=folder, prefect=False)
    assert "did not take 3 runs" in result.notes[0]
    return folder


@pytest.fixture
def project(waiting: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(waiting, tmp_path / "project")
    return tmp_path / "project"


def check(uri: str, name: str, pipelines: int = 1) -> None:
    """Every run is there, whole, once; every variant is registered, once, and the candidate."""
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.get_experiment_by_name(name).experiment_id
    runs = client.search_runs([experiment], run_view_type=mlflow.entities.ViewType.ALL)
    assert Counter(run.data.tags["model"] for run in runs) == dict.fromkeys(MODELS, pipelines)
    for run in runs:
        assert (run.info.status, run.info.lifecycle_stage) == ("FINISHED", "active")
        assert {"accuracy/top1"} <= set(run.data.metrics)
        assert run.data.params["train.epochs"] == "1"
        assert len(run.inputs.dataset_inputs) == 1
        assert len(run.outputs.model_outputs) == 1
        assert "report/report.html" in {f.path for f in client.list_artifacts(run.info.run_id, "report")}
    models = client.search_logged_models([experiment])
    assert Counter(model.source_run_id for model in models) == {run.info.run_id: 1 for run in runs}
    assert {str(model.status) for model in models} == {"READY"}
    for variant in MODELS[1:]:
        versions = client.search_model_versions(f"name = '{name}-{variant}'")
        assert len(versions) == 1
        assert client.get_model_version_by_alias(f"{name}-{variant}", "candidate").version == versions[0].version


def wait_until(condition: Callable[[], bool], seconds: float = DEADLINE) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def tell(sender: track.Sender) -> None:
    """Gives a sender the word, and does not wait for it."""
    assert sender.process.stdin is not None
    sender.process.stdin.write("send\n")
    sender.process.stdin.flush()


# several processes


def test_three_processes_on_a_fresh_database(waiting: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of one project and one of another share a database that is not there yet; all begin at once."""
    uri = f"sqlite:///{tmp_path / 'shared' / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        shutil.copytree(waiting, folder)
    with track.Sender(one) as first, track.Sender(one) as second, track.Sender(two) as third:
        for sender in (first, second, third):
            tell(sender)
        sent = [int(sender.process.communicate()[0]) for sender in (first, second, third)]
    assert sorted(sent[:2]) == [0, 3]
    assert sent[2] == 3
    for folder in (one, two):
        assert not (folder / ".assay" / "logs" / "mlflow.log").exists()
        assert track.waiting(folder) == []
        check(uri, folder.name)


# killed


def rows(project: Path, query: str) -> int:
    """A count from the database, 0 where there is none yet."""
    path = mlflow_at.local_database(mlflow_at.tracking_uri(project))
    if path is None or not path.exists():
        return 0
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as database:
        try:
            return int(database.execute(query).fetchone()[0])
        except sqlite3.OperationalError:
            return 0


MOMENTS = {
    "the database is being made": "",
    "a model was begun": "select count(*) from logged_models",
    "a run was finished, its version perhaps not": "select count(*) > 1 from runs where status = 'FINISHED'",
    "the last version was made": "select count(*) > 1 from model_versions",
}


def test_killed_while_sending_nothing_is_lost_or_doubled(project: Path) -> None:
    """One sender after the other is killed, each a little further on; then one may finish."""
    for moment, query in MOMENTS.items():
        with track.Sender(project) as sender:
            tell(sender)
            if query:
                wait_until(lambda: rows(project, query) > 0 or sender.process.poll() is not None)  # noqa: B023
            else:
                wait_until(lambda: any((project / ".assay").glob("mlflow.db.new-*")))
            sender.process.send_signal(signal.SIGKILL)
            sender.process.wait()
        if not track.waiting(project):
            break
        assert len(track.waiting(project)) == 1, moment
    track.sync(project)
    assert track.waiting(project) == []
    check(mlflow_at.tracking_uri(project), "project")


# a server


class Server:
    """A real tracking server, whose files outlive it."""

    def __init__(self, folder: Path):
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://ann:{SECRET}@127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, cwd=self.folder, start_new_session=True
            )
        wait_until(self.healthy)

    def healthy(self) -> bool:
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).status == 200
        return False

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "server"
    folder.mkdir()
    found = Server(folder)
    yield found
    found.kill()


def test_a_server_that_goes_away_and_comes_back(
    project: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    server.start()
    with track.Sender(project) as sender:
        tell(sender)
        database = f"file:{server.folder / 'server.db'}?mode=ro"
        with contextlib.closing(sqlite3.connect(database, uri=True, timeout=10)) as rows:
            wait_until(lambda: rows.execute("select count(*) from runs").fetchone()[0] > 1)
        server.kill()
        assert sender.process.communicate()[0].strip() == "0"
    assert track.count_waiting(project) == 3

    result = assay.run({**PARAMS, "evaluate": ["accuracy/top1"]}, project=project, prefect=False)
    assert result.exit_code == 0
    assert f"did not take 6 runs at http://ann:***@127.0.0.1:{server.port}" in result.notes[0]
    assert track.sync(project) == (0, 6)

    server.start()
    assert track.sync(project) == (6, 0)
    assert track.sync(project) == (0, 0)
    check(server.uri, "project", pipelines=2)
    _same_logits(project, server.uri, monkeypatch)

    assert SECRET not in "".join([*result.notes, *capfd.readouterr()])
    log = project / ".assay" / "logs" / "mlflow.log"
    assert "127.0.0.1" in log.read_text()
    files = [path for folder in (project, server.folder) for path in folder.rglob("*") if path.is_file()]
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


def _same_logits(project: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model comes from the server and answers as the artifact does."""
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    version = client.get_model_version_by_alias("project-half", "candidate")
    artifact = next((project / ".assay" / "store").glob(f"**/{version.tags['key']}"))
    x = np.random.default_rng(0).random((5, 1, 8, 8), dtype=np.float32)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    served = mlflow.pyfunc.load_model("models:/project-half@candidate").predict(x)
    with torch.inference_mode():
        direct = load_model(artifact)(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(served, direct)
