"""MLflow's and Prefect's servers on PostgreSQL: Debian's, on loopback, as a user that is not root."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.cluster

psycopg2 = pytest.importorskip("psycopg2", reason="psycopg2 is not installed: `make test-cluster` does it")
PASSWORD = "pa55-of-the-database"
PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
USER = "postgres"  # initdb refuses to be root


@dataclass
class Servers:
    """Three servers on loopback."""

    port: int
    mlflow: str
    prefect: str

    def ask(self, database: str, query: str) -> list[Any]:
        """The rows of a query."""
        with contextlib.closing(self.connect(database)) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())

    def connect(self, database: str) -> Any:
        """A connection as the servers' user."""
        return psycopg2.connect(host="127.0.0.1", port=self.port, user="assay", password=PASSWORD, dbname=database)


def as_user() -> dict[str, Any]:
    """How a process is started as somebody who may run PostgreSQL."""
    if os.getuid():
        return {}
    try:
        user = pwd.getpwnam(USER)
    except KeyError:
        pytest.skip(f"there is no user {USER!r}, and root may not run PostgreSQL")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


@pytest.fixture(scope="module")
def database(environment: Any, free_port: Any) -> Iterator[int]:
    """A PostgreSQL server with two empty databases; yields its port."""
    if not PROGRAMS:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    initdb, who = PROGRAMS[-1], as_user()
    folder = Path(tempfile.mkdtemp(prefix="assay-postgres-", dir="/tmp"))  # its user must be let in
    try:
        if who:
            shutil.chown(folder, who["user"], who["group"])
        secret = folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o600)
        if who:
            shutil.chown(secret, who["user"], who["group"])
        options = ["--username=assay", "--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync", "--encoding=UTF8"]
        subprocess.run([initdb, "-D", folder / "data", *options], check=True, capture_output=True, cwd=folder, **who)
        port = free_port()
        command = [initdb.with_name("postgres"), "-D", folder / "data", "-p", str(port)]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"]
        with open(folder / "log", "wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True, **who)
        try:
            yield port
        finally:
            process.send_signal(signal.SIGINT)  # ends at once, and in order
            process.wait(60)
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def servers(
    database: int, environment: Any, until: Any, free_port: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Servers]:
    """MLflow's and Prefect's servers on it. The addresses with the password go by environment."""
    folder = tmp_path_factory.mktemp("servers")
    ports = free_port(), free_port()
    found = Servers(database, f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}/api")
    with contextlib.closing(until(lambda: connected(found), "PostgreSQL", 60)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for name in ("mlflow", "prefect"):
                cursor.execute(f"create database {name}")
    address = f"assay:{PASSWORD}@127.0.0.1:{database}"
    commands = {
        "mlflow": ["server", "--host", "127.0.0.1", "--port", str(ports[0]), "--workers", "1"],
        "prefect": ["server", "start", "--host", "127.0.0.1", "--port", str(ports[1])],
    }
    commands["mlflow"] += ["--artifacts-destination", str(folder / "artifacts")]
    settings = {
        "MLFLOW_BACKEND_STORE_URI": f"postgresql://{address}/mlflow",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PREFECT_API_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{address}/prefect",
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    kept = {name: value for name, value in environment.items() if name != "MLFLOW_TRACKING_URI"}
    processes = []
    try:
        for name, arguments in commands.items():
            with open(folder / f"{name}.log", "wb") as log:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", name, *arguments],
                        stdout=log, stderr=log, cwd=folder, env={**kept, **settings}, start_new_session=True,
                    )
                )  # fmt: skip
        for url in (f"{found.mlflow}/health", f"{found.prefect}/health"):
            until(lambda: healthy(url), url, 240)  # noqa: B023
        yield found
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def connected(servers: Servers) -> Any:
    with contextlib.suppress(psycopg2.OperationalError):
        return servers.connect("postgres")
    return None


def healthy(url: str) -> bool:
    with contextlib.suppress(OSError):
        return bool(urllib.request.urlopen(url, timeout=5).status == 200)
    return False


def test_a_run_is_kept_by_both(servers: Servers, tmp_path: Path, environment: Any, machine_at: Any) -> None:
    """Numbers, models and the report in MLflow, the flow in Prefect, both in PostgreSQL; again adds nothing."""
    reach = {"MLFLOW_TRACKING_URI": servers.mlflow, "PREFECT_API_URL": servers.prefect}
    machine = machine_at(tmp_path / "project", {**environment, **reach})
    code, answer = machine.run()
    assert code == 0, machine.said
    assert "MLflow did not take" not in machine.said

    tags = "select run_uuid, value from runs join tags using (run_uuid) where key = 'model' and status = 'FINISHED'"
    runs = dict(servers.ask("mlflow", tags))
    assert sorted(runs.values()) == ["dense", "half"]
    values = servers.ask("mlflow", "select run_uuid, value from latest_metrics where key = 'accuracy/top1'")
    expected = {row["model"]: row["value"] for row in answer["rows"] if row["method"] == "accuracy/top1"}
    assert {runs[run]: value for run, value in values} == pytest.approx({m: expected[m] for m in runs.values()})
    (version,) = servers.ask("mlflow", "select name, version from model_versions")
    assert version == ("project-half", 1)
    flows = servers.ask("prefect", "select name, state_type::text from flow_run")
    assert flows == [(f"assay {answer['pipeline']}", "COMPLETED")]
    tasks = servers.ask("prefect", "select count(*) from task_run where state_type = 'COMPLETED'")
    assert tasks[0][0] > 0

    code, again = machine.run()
    assert (code, again["computed"], again["rows"]) == (0, 0, answer["rows"])
    assert servers.ask("mlflow", "select count(*) from runs") == [(2,)]
    files = [path for path in machine.folder.rglob("*") if path.is_file()]
    assert [path for path in files if PASSWORD.encode() in path.read_bytes()] == []
    assert PASSWORD not in machine.said
