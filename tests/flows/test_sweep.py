"""A sweep is its points' runs, with equal cells once; what fails concerns its own points alone."""

from __future__ import annotations

import contextlib
import copy
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml

import assay
from assay.flows import server
from assay.flows.executor import CellFailed
from assay.flows.sweep import SweepResult, finish, groups
from assay.flows.sweep.points import open_sweep
from assay.tasks import data, mlflow_at, project, settings, track
from assay.tasks.cells import Cell, Ref
from assay.tasks.store import Store
from assay.tasks.sweep import make_points
from tests.conftest import SMALL
from tests.flows.test_track import Here

SPARSITY, LR = "compress.pruned.0.sparsity", "train.optimizer.lr"
GOOD: list[dict[str, Any]] = [{SPARSITY: 0.3}, {SPARSITY: 0.6}]
DIVERGES = {LR: 1e18, SPARSITY: 0.3}
PARAMS = {**SMALL, "workers": 1, "gates": ["accuracy/top1.drop <= 0.9"]}


@pytest.fixture(scope="module", autouse=True)
def _environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PREFECT_HOME", "PREFECT_API_URL", "MLFLOW_TRACKING_URI", "ASSAY_DOWNLOADS"):
            patch.delenv(name, raising=False)
        settings.apply(tmp_path_factory.mktemp("home"))
        mlflow_at.quiet()
        yield


@dataclass
class Swept:
    """A project after its first sweep, in which one point fails."""

    folder: Path
    result: SweepResult
    fetched: list[str]

    @property
    def store(self) -> Store:
        return Store(self.folder / ".assay" / "store")

    def labels(self) -> list[str]:
        """The label of every artifact."""
        return [str(self.store.manifest(slot, key)["label"]) for slot, key, _ in self.store.artifacts()]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    folder = tmp_path_factory.mktemp("swept") / "project"
    folder.mkdir()
    fetched: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        fetch = data.materialise

        def materialise(where: Path, source: Any, downloads: Path) -> str:
            fetched.append(source.method_name())
            return fetch(where, source, downloads)

        patch.setattr(data, "materialise", materialise)
        patch.setattr(track, "Sender", Here)
        result = assay.sweep(
            [*GOOD, DIVERGES], PARAMS, project=folder, prefect=False, metrics=["gradient:rank", "accuracy/top1.drop"]
        )
    return Swept(folder, result, fetched)


@pytest.fixture
def copied(swept: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the swept project, whose runs are sent in this process."""
    monkeypatch.setattr(track, "Sender", Here)
    shutil.copytree(swept.folder, tmp_path / "project")
    return tmp_path / "project"


# one plan


def test_cells_that_points_share_are_computed_once(swept: Swept) -> None:
    labels = swept.labels()
    assert labels.count("train dense") == 1
    assert labels.count("compress pruned 0 prune/magnitude") == 2
    assert labels.count("attribute dense gradient") == 1
    assert len(labels) == swept.result.computed
    assert swept.fetched == ["digits"]


def test_each_point_is_its_own_run(swept: Swept, copied: Path) -> None:
    """The same values by `assay run`: everything is there already, and the numbers are the same."""
    for point, result in zip(GOOD, swept.result.points, strict=False):
        overrides = [f"{path}={value}" for path, value in point.items()]
        ran = assay.run(PARAMS, overrides=overrides, project=copied, prefect=False, track=False)
        assert (ran.computed, ran.pipeline) == (0, result.pipeline)
        assert ran.summary.to_json() == result.summary.to_json()


def test_the_same_sweep_again_is_hits(swept: Swept, copied: Path) -> None:
    again = assay.sweep([*GOOD, DIVERGES], PARAMS, project=copied, prefect=False)
    assert (again.computed, again.id) == (0, swept.result.id)
    assert [point.failure for point in again.points] == [point.failure for point in swept.result.points]
    more = assay.sweep([*reversed(GOOD), {SPARSITY: 0.9}], PARAMS, project=copied, prefect=False)
    assert 0 < more.computed < 12
    assert more.exit_code == 0


# failures


def test_a_point_that_fails_has_its_reason_and_the_rest_is_done(swept: Swept) -> None:
    result = swept.result
    assert result.exit_code == 1
    assert [point.summary is not None for point in result.points] == [True, True, False]
    assert re.search(r"train dense: loss is (nan|inf) at step 1", result.points[2].failure)
    assert result.points[0].passed
    assert "train random" in swept.labels()


def test_every_point_fails(copied: Path) -> None:
    result = assay.sweep([DIVERGES], PARAMS, project=copied, prefect=False, track=False, metrics=["gradient:rank"])
    assert (result.exit_code, result.passed) == (1, False)
    assert "1 point, failed" in result.page.read_text(encoding="utf-8")
    assert len(result.csv.read_text(encoding="utf-8").splitlines()) == 2


def test_only_a_failed_gate(copied: Path) -> None:
    tree = {**PARAMS, "gates": ["accuracy/top1 >= 1.01"]}
    result = assay.sweep(GOOD, tree, project=copied, prefect=False, track=False)
    assert (result.exit_code, result.computed) == (3, 0)


class Executed:
    """Computes cells by name into a set: those of `bad` fail."""

    def __init__(self, bad: set[str]):
        self.bad, self.done = bad, []

    def run(self, cells: Sequence[Cell]) -> None:
        for cell in cells:
            if cell.key in self.bad:
                raise CellFailed(f"{cell.key}: made to fail", key=cell.key)
            self.done.append(cell.key)


def stub(key: str, *needs: str, group: str = "", exclusive: bool = False) -> Cell:
    inputs = {need: Ref("train", need) for need in needs}
    return Cell("train", "train", key, "none:none", {}, inputs, key, {}, group or key, exclusive)


class Ended:
    """A future that has ended."""

    def add_done_callback(self, tell: Any) -> None:
        tell(self)


def test_a_failed_cell_stops_what_needs_it_and_nothing_else() -> None:
    """Also within a group, and in groups that need another cell of the same group."""
    cells = [
        stub("a", group="first"),
        stub("bad", group="first"),
        stub("b", group="first"),
        stub("after-bad", "bad", group="first"),
        stub("after-b", "b", group="second"),
        stub("after-both", "after-b", "after-bad", group="second"),
        stub("last", "after-both"),
        stub("measure", "a", exclusive=True),
        stub("other"),
    ]
    executed: Any = Executed({"bad"})
    ledger = groups.Ledger(executed)
    parts = groups.group({cell.key: cell for cell in cells}, {cell.key: 1 for cell in cells})
    order: list[str] = []

    def submit(name: str) -> Ended:
        order.append(name.removeprefix("point 1: "))
        with contextlib.suppress(CellFailed):
            ledger.run(parts[name])
        return Ended()

    groups.in_order(parts, submit, 1)
    assert order == ["first", "second", "last", "other", "measure"]
    assert executed.done == ["a", "b", "after-b", "other", "measure"]
    assert ledger.failures == dict.fromkeys(("bad", "after-bad", "after-both", "last"), "bad: made to fail")


# several machines


def test_points_that_are_in_the_remote_are_hits(tmp_path: Path) -> None:
    """Of another machine's sweep, and of its runs; what is damaged there is named and computed again."""
    remote = tmp_path / "remote"
    tree = {**PARAMS, "store": {"remote": f"file://{remote}"}}
    folders = {name: tmp_path / name for name in ("one", "two", "three", "four")}
    for folder in folders.values():
        folder.mkdir()
    quiet = {"prefect": False, "track": False}
    one = assay.sweep(GOOD, tree, project=folders["one"], **quiet)
    assert one.computed == one.total
    two = assay.sweep(GOOD, tree, project=folders["two"], **quiet)
    assert (two.computed, two.id) == (0, one.id)
    assert [p.summary.to_json() for p in two.points] == [p.summary.to_json() for p in one.points]
    stores = [Store(folders[name] / ".assay" / "store") for name in ("one", "two")]
    there, brought = ({(slot, key) for slot, key, _ in store.artifacts()} for store in stores)
    assert brought < there  # what only a link asked for stays where it is

    overrides = [f"{SPARSITY}=0.9"]
    ran = assay.run(tree, overrides=overrides, project=folders["three"], **quiet)
    assert 0 < ran.computed < ran.total
    more = assay.sweep([*GOOD, {SPARSITY: 0.9}], tree, project=folders["two"], **quiet)
    assert more.computed == 0

    for path in (remote / "train").rglob("model.safetensors"):
        path.write_bytes(b"spoilt")
    four = assay.sweep(GOOD, tree, project=folders["four"], **quiet)
    assert 0 < four.computed < one.computed
    assert any("was damaged in the remote (model.safetensors) and taken out" in note for note in four.notes)


def test_a_remote_that_goes_away_fails_the_points_that_need_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An artifact that is computed and cannot be sent is a cell that failed, and not the next one."""
    from assay.tasks.remote import Remote, RemoteFailed

    push = Remote.push

    def refuse(self: Remote, ref: Ref) -> None:
        if ref.slot.startswith("compress"):
            raise RemoteFailed("the bucket is full")
        push(self, ref)

    monkeypatch.setattr(Remote, "push", refuse)
    tree = {**PARAMS, "store": {"remote": f"file://{tmp_path / 'remote'}"}}
    tree["compress"] = {"pruned": tree["compress"]["pruned"][:1]}
    result = assay.sweep([*GOOD, {"evaluate": [], "attribute": {}, "compress": {}, "gates": []}], tree,
                         project=tmp_path, prefect=False, track=False)  # fmt: skip
    reasons = ["compress pruned 0 prune/magnitude: the bucket is full"] * 2
    assert [point.failure for point in result.points] == [*reasons, ""]


# what is written


def test_the_files(swept: Swept) -> None:
    folder = swept.folder / "reports" / f"sweep-{swept.result.id}"
    assert swept.result.page == folder / "sweep.html"
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    summaries = {f"points/000{i}/summary.json" for i in (1, 2)}
    assert found == {"sweep.html", "sweep.csv", "sweep.json", *summaries}
    told = json.loads((folder / "points/0002/summary.json").read_text())
    assert told == swept.result.points[1].summary.to_json()
    assert list((swept.folder / "reports").iterdir()) == [folder]
    assert not list((swept.folder / ".assay").glob("*.new"))


def test_the_csv_has_every_number_of_every_point(swept: Swept) -> None:
    with open(swept.result.csv, newline="") as file:
        rows = list(csv.DictReader(file))
    for result in swept.result.points[:2]:
        own = [row for row in rows if row["point"] == str(result.point.number)]
        assert len(own) == len(result.summary.rows)
        assert {row[SPARSITY] for row in own} == {str(result.point.values[SPARSITY])}
        row = next(row for row in own if (row["model"], row["name"]) == ("pruned", "gradient:rank"))
        expected = result.summary.find("pruned", "rank", saliency="gradient")
        assert (float(row["value"]), float(row["ceiling"])) == (expected.value, expected.ceiling)
        assert row["passed"] == "True"
    (failed,) = [row for row in rows if row["point"] == "3"]
    assert failed["failure"] == swept.result.points[2].failure
    assert failed[LR] == "1e+18"


def test_the_page(swept: Swept) -> None:
    page = swept.result.page.read_text(encoding="utf-8")
    assert "3 points, 1 failed; 2 pass every gate" in page
    assert "loss is" in page
    assert page.count("<svg") == 3  # one a number, over the one path that points which are done differ in
    for name in ("accuracy/top1", "gradient:rank", "accuracy/top1.drop"):
        assert f'<th scope="col">{name}</th>' in page
    assert "floor " in page
    assert "ceiling " in page
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", page)
    assert "http" not in re.sub(r"http-equiv", "", page)


def test_a_page_shows_values_as_they_are(swept: Swept, tmp_path: Path) -> None:
    from assay.tasks.report.sweep import render
    from assay.tasks.report.words import Words

    odd = "<script>alert(1)</script>"
    results = [
        replace(r, point=replace(r.point, values={"a.b": f"{odd}{i}"})) for i, r in enumerate(swept.result.points)
    ]
    page = render(replace(swept.result.table, results=results), Words(frozenset()), {"command": odd})
    assert odd not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;2" in page


# MLflow


@dataclass
class Runs:
    """MLflow's runs of a project: that of the sweep, and those of its points."""

    client: Any
    everything: list[Any]

    @property
    def parent(self) -> Any:
        """The sweep's own run."""
        (found,) = [run for run in self.everything if run.data.tags.get("kind") == "sweep"]
        return found

    @property
    def children(self) -> dict[tuple[str, str], Any]:
        """The points' runs by the beginning of their name and model."""
        found = [run for run in self.everything if "mlflow.parentRunId" in run.data.tags]
        names = {(run.info.run_name.split()[0], run.data.tags["model"]): run for run in found}
        assert len(names) == len(found)
        return names


def runs(folder: Path) -> Runs:
    uri = mlflow_at.tracking_uri(folder)
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.get_experiment_by_name(folder.name)
    return Runs(client, list(client.search_runs([experiment.experiment_id])))


def test_mlflow_has_a_run_for_the_sweep_and_one_for_each_point_and_model(swept: Swept) -> None:
    found = runs(swept.folder)
    assert set(found.children) == {("1", "dense"), ("1", "pruned"), ("2", "dense"), ("2", "pruned"), ("3", "dense")}
    parent = found.parent
    assert {run.data.tags["mlflow.parentRunId"] for run in found.children.values()} == {parent.info.run_id}
    assert {run.data.tags["sweep"] for run in found.everything} == {swept.result.id}
    assert (parent.data.metrics["points"], parent.data.metrics["points.failed"]) == (3, 1)
    assert parent.data.params[f"sweep.{SPARSITY}"] == "0.3, 0.6"
    one = found.children["2", "pruned"]
    assert (one.info.status, one.data.params[f"sweep.{SPARSITY}"]) == ("FINISHED", "0.6")
    assert one.data.params["compress.0.sparsity"] == "0.6"
    row = swept.result.points[1].summary.find("pruned", "rank", saliency="gradient")
    assert one.data.metrics["gradient/rank"] == pytest.approx(row.value, abs=1e-12)
    assert one.inputs.dataset_inputs[0].dataset.name == "digits"
    failed = found.children["3", "dense"]
    assert failed.info.status == "FAILED"
    assert failed.data.tags["failure"] == swept.result.points[2].failure
    assert found.client.search_registered_models() == []
    root = swept.folder / ".assay" / "mlartifacts"
    report = root / parent.info.run_id / "artifacts" / "report"
    assert {path.name for path in report.iterdir()} == {"sweep.html", "sweep.csv", "sweep.json", "params.yaml"}
    assert [p.name for p in (root / one.info.run_id / "artifacts" / "report").iterdir()] == ["summary.json"]


def test_nothing_is_sent_twice_or_lost(swept: Swept, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {run.info.run_id for run in runs(copied).everything}
    assay.sweep([*GOOD, DIVERGES], PARAMS, project=copied, prefect=False)
    assert track.waiting(copied) == []
    shutil.rmtree(copied / ".assay" / "outbox" / "sent")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    result = assay.sweep([*GOOD, DIVERGES], PARAMS, project=copied, prefect=False)
    assert "did not take 6 runs" in result.notes[0]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert track.sync(copied) == (6, 0)
    found = runs(copied)
    assert {run.info.run_id for run in found.everything} == before
    assert len(found.client.get_metric_history(found.children["1", "dense"].info.run_id, "train/loss")) == 2
    assert len(found.client.get_metric_history(found.parent.info.run_id, "points")) == 1


def test_a_point_that_failed_before_and_is_done_now(swept: Swept, copied: Path) -> None:
    """As after a full disk: the same run of MLflow loses its reason and gets its numbers."""
    sweep = open_sweep(make_points(GOOD), PARAMS, (), copied, "assay sweep")
    whole = finish.tabulate(sweep, {}, [], "")
    dense = sweep.parts[1].plan.models["pruned"].key
    half = finish.tabulate(sweep, {dense: "the disk is full\nmore"}, [], "")
    assert [result.failure for result in half.results] == ["", "the disk is full"]
    for table in (half, whole):
        page = finish.write(sweep, table)
        finish.enqueue(sweep, table, page)
        track.sync(copied, Here(copied))  # type: ignore[arg-type]
        everything = runs(copied).everything
        own = [run for run in everything if run.data.tags["sweep"] == sweep.id and run.data.tags.get("kind") != "sweep"]
        status = {(run.info.run_name.split()[0], run.data.tags["model"]): run.info.status for run in own}
        assert status["2", "dense"] == ("FAILED" if table is half else "FINISHED")
        assert (page.parent / "points" / "0002").exists() == (table is whole)
    assert set(status) == {("1", "dense"), ("1", "pruned"), ("2", "dense"), ("2", "pruned")}
    assert all("failure" not in run.data.tags for run in own)
    assert all("accuracy/top1" in run.data.metrics for run in own)


def test_a_later_run_of_a_point_is_a_run_of_its_own(swept: Swept, copied: Path) -> None:
    chosen = copy.deepcopy(PARAMS)
    chosen["compress"]["pruned"][0]["sparsity"] = 0.6
    assert assay.run(chosen, project=copied, prefect=False).computed == 0
    found = runs(copied)
    top = [run for run in found.everything if "sweep" not in run.data.tags]
    assert {run.data.tags["model"] for run in top} == {"dense", "pruned"}
    assert [model.name for model in found.client.search_registered_models()] == ["project-pruned"]
    assert len(found.children) == 5


# DVC


def test_dvc_lock_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even by a point that is what params.yaml says."""
    project.create(tmp_path / "own")
    file = tmp_path / "own" / "params.yaml"
    file.write_text(yaml.safe_dump({**SMALL, "compress": {}, "attribute": {}}), encoding="utf-8")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    result = assay.sweep([{"train.epochs": 2}, {"train.epochs": 1}], file, prefect=False)
    assert result.exit_code == 0
    assert not (tmp_path / "own" / "dvc.lock").exists()
    assert not (tmp_path / "own" / "out" / "metrics.json").exists()


# real processes

LONG: dict[str, Any] = {**SMALL, "workers": 1, "train": {**SMALL["train"], "epochs": 60}}
OPTIONS = ["sweep", "--grid", f"{SPARSITY}=0.3,0.6", "--grid", "seed=0,1", "--json"]


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    kept.update(MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    command = [sys.executable, "-m", "assay.flows.cli", *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=kept, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def home(folder: Path, tree: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    return folder


def contents(folder: Path) -> dict[str, Any]:
    """Every file's digest of every artifact."""
    store = Store(folder / ".assay" / "store")
    assert list((store.root / "work").glob("*")) == []
    return {f"{slot}/{key}": store.manifest(slot, key)["files"] for slot, key, _ in store.artifacts()}


@pytest.mark.server
def test_killed_in_the_middle_and_asked_again(tmp_path: Path) -> None:
    whole, killed = home(tmp_path / "whole", LONG), home(tmp_path / "killed", LONG)
    first = start(whole, *OPTIONS, "--no-server")
    expected = json.loads(first.communicate(timeout=300)[0])
    for artifacts in (3, 12):
        run = start(killed, *OPTIONS, "--no-server")
        end = time.monotonic() + 200
        while len(list((killed / ".assay" / "store").glob("**/manifest.json"))) < artifacts:
            assert time.monotonic() < end
            assert run.poll() is None
            time.sleep(0.02)
        os.killpg(run.pid, signal.SIGKILL)
        run.communicate()
    last = start(killed, *OPTIONS, "--no-server")
    found = json.loads(last.communicate(timeout=300)[0])
    assert (first.returncode, last.returncode) == (0, 0)
    assert 0 < found["computed"] < expected["computed"]
    assert found["points"] == expected["points"]
    assert found["sweep"] == expected["sweep"]
    assert contents(killed) == contents(whole)


@pytest.mark.server
def test_one_flow_run_for_all(tmp_path: Path) -> None:
    folder = home(tmp_path / "flow", copy.deepcopy(PARAMS))
    run = start(folder, "sweep", "--grid", f"{LR}=0.01,1e18", "--metric", "gradient:rank")
    try:
        out, said = run.communicate(timeout=300)
        assert (run.returncode, out) == (1, ""), said
        assert "point 2 failed" in said
        assert "Traceback" not in said
        flows = ask(server.running(folder), "flow_runs")
        tasks = ask(server.running(folder), "task_runs")
    finally:
        server.stop(folder)
    assert [(flow["name"].startswith("assay sweep "), flow["state_type"]) for flow in flows] == [(True, "FAILED")]
    states = {task["name"]: task["state_type"] for task in tasks}
    assert states["point 1: train dense"] == "COMPLETED"
    assert states["point 2: train dense"] == "FAILED"
    assert states["point 2: train random"] == "COMPLETED"


def ask(url: str, what: str) -> list[dict[str, Any]]:
    """What a Prefect server knows."""
    request = urllib.request.Request(f"{url}/{what}/filter", b'{"limit": 200}', {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: list[dict[str, Any]] = json.loads(answer.read())
    return found
