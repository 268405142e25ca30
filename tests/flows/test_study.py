"""Studies and searches: one cell that asks for trainings, its page, its answer, and what is wrong with one."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml

from assay.flows import cli
from assay.flows.study import run_study
from assay.plugins.study.randomization_test import RandomizationTest
from assay.tasks import mlflow_at, track
from assay.tasks.store import Store
from tests.flows.test_track import Here

TREE: dict[str, Any] = {
    "seed": 0,
    "device": "cpu",
    "prepare": ["source/digits", {"name": "transform/subset", "train": 80, "test": 40}],
    "train": {"model": {"name": "mlp", "hidden": [16]}, "epochs": 1},
}


SHORT = RandomizationTest(fractions=(0.0, 1.0), seeds=1)


def test_a_study_asks_for_its_trainings_once(tmp_path: Path) -> None:
    method = RandomizationTest(fractions=(0.0, 1.0), seeds=2)
    first = run_study("study", method, TREE, project=tmp_path, prefect=False, track=False)
    assert first.computed == 2 + 4 + 4 + 1  # data, noisy data, trainings, the study
    assert set(first.result.numbers) == {"fitted", "tested", "chance"}
    page = first.page.read_text(encoding="utf-8")
    assert first.answer in page
    assert "<svg" in page
    rows = (first.page.parent / "study.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0] == "fraction,training_accuracy,test_accuracy,test_accuracy_lowest,test_accuracy_highest"
    assert len(rows) == 3

    again = run_study("study", method, TREE, project=tmp_path, prefect=False, track=False)
    assert again.computed == 0
    assert again.page == first.page
    more = RandomizationTest(fractions=(0.0, 0.5, 1.0), seeds=2)
    wider = run_study("study", more, TREE, project=tmp_path, prefect=False, track=False)
    assert wider.computed == 2 + 2 + 1  # what the first has trained is there
    assert wider.page != first.page


def test_what_is_in_the_remote_is_a_hit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine needs the answer alone, and tells MLflow the same."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr(track, "Sender", Here)
    tree = {**TREE, "store": {"remote": f"file://{tmp_path / 'remote'}"}}
    told = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        found = run_study("study", SHORT, tree, project=tmp_path / name, prefect=False)
        assert (found.computed == 0) == (name == "two")
        assert found.notes == ["MLflow did not take 3 runs at http://127.0.0.1:9: `assay track sync` sends them later"]
        (folder,) = track.waiting(tmp_path / name)
        message = json.loads((folder / track.MESSAGE).read_text(encoding="utf-8"))
        told.append((message["digest"], found.page.read_text(encoding="utf-8").count("<svg")))
    assert told[0] == told[1]
    trainings = [Store(tmp_path / name / ".assay" / "store").root / "train" for name in ("one", "two")]
    assert [folder.exists() for folder in trainings] == [True, False]


@dataclass
class Told:
    """MLflow's runs of a project's studies."""

    folder: Path
    client: Any
    runs: list[Any]

    @property
    def parent(self) -> Any:
        """The study's own run."""
        (found,) = [run for run in self.runs if run.data.tags["kind"] == "study"]
        return found

    @property
    def children(self) -> list[Any]:
        """The runs of its trainings, in the order in which they were asked for."""
        found = [run for run in self.runs if run.data.tags["kind"] == "training"]
        return sorted(found, key=lambda run: int(run.info.run_name.split()[0]))


def told(folder: Path) -> Told:
    uri = mlflow_at.tracking_uri(folder)
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.get_experiment_by_name(folder.name)
    return Told(folder, client, list(client.search_runs([experiment.experiment_id])))


@pytest.fixture
def sent_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent is sent in this process, to the project's own database."""
    for name in ("PREFECT_HOME", "PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(track, "Sender", Here)


def test_mlflow_has_a_run_for_the_study_and_one_for_each_training(sent_here: None, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    found = run_study("study", SHORT, TREE, project=folder, prefect=False)
    assert found.notes == []
    known = told(folder)
    tags, data = known.parent.data.tags, known.parent.data
    assert (tags["method"], tags["answer"]) == ("study/randomization_test", found.answer)
    assert (tags["study"], tags["problem"]) == (found.cell.key[:16], "classification")
    assert data.metrics == {name: number.value for name, number in found.result.numbers.items()}
    assert (data.params["study.fractions"], data.params["train.model.hidden"]) == ("[0.0, 1.0]", "[16]")
    assert known.parent.inputs.dataset_inputs[0].dataset.name == "digits"
    assert known.parent.info.status == "FINISHED"
    files = folder / ".assay" / "mlartifacts" / known.parent.info.run_id / "artifacts" / "report"
    assert {path.name for path in files.iterdir()} == {"study.html", "study.csv", "study.json", "params.yaml"}
    assert "<svg" in (files / "study.html").read_text(encoding="utf-8")

    clean, noisy = known.children
    assert {run.data.tags["mlflow.parentRunId"] for run in known.children} == {known.parent.info.run_id}
    assert noisy.data.params["transforms.0"] == "prepare/transform/label_noise"
    assert noisy.data.params["transforms.0.fraction"] == "1.0"
    assert noisy.data.params["train.optimizer.lr"] == data.params["train.optimizer.lr"]
    assert clean.data.params["transforms.0.fraction"] == "0.0"
    losses = known.client.get_metric_history(noisy.info.run_id, "train/loss")
    assert [metric.step for metric in losses] == [1]
    assert known.client.search_registered_models() == []


def test_nothing_is_sent_twice_or_lost(
    sent_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "params.yaml").write_text(yaml.safe_dump(TREE), encoding="utf-8")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    away = run_study("study", SHORT, folder / "params.yaml", prefect=False)
    assert "did not take 3 runs" in away.notes[0]
    assert run_study("study", SHORT, folder / "params.yaml", prefect=False).computed == 0
    assert track.count_waiting(folder) == 3
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    code, _, _ = command(capsys, "track", "sync", "--params", str(folder / "params.yaml"))
    assert (code, track.waiting(folder)) == (0, [])
    before = {run.info.run_id for run in told(folder).runs}
    assert len(before) == 3

    again = run_study("study", SHORT, folder / "params.yaml", prefect=False)
    assert (again.computed, again.notes, track.waiting(folder)) == (0, [], [])
    shutil.rmtree(folder / ".assay" / "outbox" / "sent")
    run_study("study", SHORT, folder / "params.yaml", prefect=False)
    known = told(folder)
    assert {run.info.run_id for run in known.runs} == before
    assert len(known.client.get_metric_history(known.children[0].info.run_id, "train/loss")) == 1
    assert len(known.client.get_metric_history(known.parent.info.run_id, "fitted")) == 1


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's params file, and no MLflow."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr(track, "Sender", Here)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(TREE), encoding="utf-8")
    return tmp_path / "params.yaml"


def command(capsys: Any, *arguments: str) -> tuple[int, str, str]:
    """A command's exit code and what it said."""
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    said = capsys.readouterr()
    return int(stop.value.code or 0), said.out, said.err


def test_the_command(params: Path, capsys: Any) -> None:
    arguments = ("--with", "fractions=[0.0, 1.0]", "--with", "seeds=1", "--no-server", "--json")
    code, out, _ = command(capsys, "study", "randomization_test", *arguments)
    assert code == 0
    answer = json.loads(out)
    assert len(answer["table"]["fraction"]) == 2
    assert Path(answer["page"]).exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("study", "randomisation_test"), ["randomisation_test", "did you mean randomization_test"]),
        (("study", "randomization_test", "--with", "seed=3"), ["study.seed", "did you mean 'seeds'"]),
        (("study", "randomization_test", "--with", "seeds"), ["--with 'seeds'", "parameter=value"]),
        (("study", "randomization_test", "--set", "train.epochs=x"), ["train.epochs", "'x'"]),
        (("search", "nothing", "--space", "optimizer.lr=[0.1]"), ["no method 'nothing'"]),
    ],
)
def test_bad_input(params: Path, capsys: Any, arguments: tuple[str, ...], words: list[str]) -> None:
    code, _, err = command(capsys, *arguments)
    assert code == 2, err
    assert "Traceback" not in err
    for word in words:
        assert word in err
