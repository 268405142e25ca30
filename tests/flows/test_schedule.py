"""`assay serve` with a real Prefect server: fires again and again, never two at once, ends when it is told to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import yaml
from filelock import FileLock

from assay.flows import server

pytestmark = pytest.mark.server

PARAMS: dict[str, Any] = {
    "seed": 0,
    "device": "cpu",
    "workers": 1,
    "prepare": ["source/digits", {"name": "transform/subset", "train": 160, "test": 60}],
    "train": {"model": {"name": "mlp", "hidden": [12]}, "epochs": 1},
    "evaluate": ["accuracy/top1"],
}
DEADLINE = 300.0  # for a machine that is busy; when it is not, all of this takes less than a minute
STARTED = "runs every 5 s"
SKIPPED = "skipped: the last run is still going"


@dataclass
class Show:
    """What was seen of one `assay serve`."""

    said: str = ""
    code: int = -1
    seconds_to_end: float = 0.0
    runs: list[dict[str, Any]] = field(default_factory=list)
    plain: subprocess.CompletedProcess[str] | None = None
    url: str = ""
    url_of_plain: str = ""
    stopped: bool = False

    def states(self, kind: str) -> list[str]:
        """Messages of the scheduled runs that ended so."""
        return states(self.runs, kind)


def until(condition: Callable[[], bool], what: str) -> None:
    """Waits for a condition."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"waited {DEADLINE} s for {what}"
        time.sleep(0.3)


def ask(url: str) -> list[dict[str, Any]]:
    """Every flow run that the server knows and that has begun."""
    found: list[dict[str, Any]] = []
    body = {"flow_runs": {"state": {"type": {"not_any_": ["SCHEDULED"]}}}, "limit": 200}
    request = urllib.request.Request(
        f"{url}/flow_runs/filter", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        found = json.loads(answer.read())
    return found


def states(runs: list[dict[str, Any]], kind: str) -> list[str]:
    """Messages of the scheduled runs among these that ended so."""
    found = [run["state"] for run in runs if not run["name"].startswith("assay ")]
    return [state["message"] for state in found if state["type"] == kind]


@pytest.fixture(scope="module")
def show(tmp_path_factory: pytest.TempPathFactory) -> Show:
    """Serves every five seconds: a run that is held up until the next is skipped, another run, one on data that
    were changed, Ctrl-C. Each step waits for what the server knows of a run, however fast the machine is."""
    folder = tmp_path_factory.mktemp("schedule") / "project"
    (folder / ".assay").mkdir(parents=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS, sort_keys=False), encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    environment = {
        **kept,
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "TMPDIR": str(folder.parent),
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",  # seconds between looks for what is due; by default 10
    }
    command = [sys.executable, "-m", "assay.flows.cli"]
    log = folder.parent / "said.txt"
    found = Show()

    def said(words: str) -> int:
        return log.read_text(encoding="utf-8").count(words)

    def seen(kind: str, words: str = "") -> int:
        return sum(words in message for message in states(ask(found.url), kind))

    def until_seen(kind: str, count: int, what: str, words: str = "") -> None:
        until(lambda: seen(kind, words) >= count or process.poll() is not None, what)
        assert process.poll() is None, log.read_text(encoding="utf-8")

    data_lock = FileLock(folder / ".assay" / "data-digits.lock")
    data_lock.acquire()  # whoever fetches the data waits
    with open(log, "w", encoding="utf-8") as out:
        process = subprocess.Popen(
            [*command, "serve", "--interval", "5"],
            cwd=folder, env=environment, stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    try:
        until(lambda: bool(said(STARTED)) or process.poll() is not None, "the schedule")
        found.url = server.running(folder)
        until_seen("CANCELLED", 1, "a run that is skipped", SKIPPED)
        data_lock.release()
        until_seen("COMPLETED", 2, "two runs")
        path = folder / "data" / "digits" / "train.x.npy"
        pixels = np.load(path)
        np.save(path, 255 - pixels)
        until_seen("FAILED", 1, "a run that fails")
        np.save(path, pixels)
        assert said("Traceback") == 0, log.read_text(encoding="utf-8")
        begun = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        found.code = process.wait(DEADLINE)
        found.seconds_to_end = time.monotonic() - begun
        found.said = log.read_text(encoding="utf-8")
        found.plain = subprocess.run(
            [*command, "run", "--json", "--set", "train.epochs=2"],
            cwd=folder, env=environment, capture_output=True, text=True, timeout=DEADLINE, check=False,
        )  # fmt: skip
        found.url_of_plain = server.running(folder)
        found.runs = ask(found.url)
    finally:
        data_lock.release()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        found.stopped = server.stop(folder) and not server.running(folder) and not server.healthy(found.url)
    return found


def test_fires_again_and_again(show: Show) -> None:
    done = show.states("COMPLETED")
    assert len(done) >= 2
    computed = [int(text.split("computed ")[1].split()[0]) for text in done]
    assert sorted(computed)[-1] == 4
    assert computed.count(0) == len(computed) - 1
    assert all("report.html" in text for text in done)


def test_skips_a_run_that_would_overlap(show: Show) -> None:
    """It began and ended while the first one was going."""
    scheduled = [run for run in show.runs if not run["name"].startswith("assay ")]
    skipped = [run for run in scheduled if run["state"]["message"] == SKIPPED]
    first = min((run for run in scheduled if run["state"]["type"] == "COMPLETED"), key=lambda run: run["end_time"])
    assert any(first["start_time"] < run["start_time"] < run["end_time"] < first["end_time"] for run in skipped)


def test_says_why_a_run_failed(show: Show) -> None:
    (first, *_) = show.states("FAILED")
    assert "data/digits was changed since it was added" in first


def test_ends_with_ctrl_c(show: Show) -> None:
    assert show.code == 0
    lines = show.said.splitlines()
    assert "runs every 5 s; Ctrl-C ends this" in lines[0]
    assert lines[-1].endswith("stopped")
    assert show.seconds_to_end < 120


def test_parameters_are_small(show: Show) -> None:
    assert {frozenset(run["parameters"]) for run in show.runs} == {
        frozenset({"project", "params", "overrides"}), frozenset({"pipeline", "names"}),
    }  # fmt: skip
    assert all(len(json.dumps(run["parameters"])) < 1000 for run in show.runs)


def test_a_run_on_the_same_server_answers_in_json_alone(show: Show) -> None:
    assert show.plain is not None
    assert show.plain.returncode == 0, show.plain.stderr
    assert json.loads(show.plain.stdout)["computed"] > 0
    assert show.url_of_plain == show.url
    flows = [run["name"] for run in show.runs if run["name"].startswith("assay ")]
    assert f"assay {json.loads(show.plain.stdout)['pipeline']}" in flows


def test_the_server_ends(show: Show) -> None:
    assert show.stopped
