"""What a finished run says to MLflow, in the project's own database."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import yaml
from mlflow.models import Model

import assay
from assay.flows.session import open_session
from assay.plugins.values import BadInput
from assay.tasks import message, mlflow_at, send, settings, track

PARAMS: dict[str, Any] = {
    "seed": 0,
    "device": "cpu",
    "workers": 1,
    "prepare": ["source/digits", {"name": "transform/subset", "train": 300, "test": 120}],
    "train": {"model": {"name": "mlp", "hidden": [32]}, "optimizer": {"name": "adamw", "lr": 0.01}, "epochs": 2},
    "compress": {
        "pruned": [{"name": "prune/magnitude", "sparsity": 0.5}, {"name": "recover/finetune", "epochs": 1}],
        "light": [{"name": "quantize/int8_static", "examples": 64}],
    },
    "attribute": {"saliency": ["gradient"], "agreement": ["rank"], "controls": ["random"], "images": 16},
    "evaluate": ["accuracy/top1"],
}
PASSES, FAILS = "accuracy/top1 >= 0.0", "accuracy/top1 >= 1.01"


class Here:
    """Sends in the test's own process, which has imported MLflow already."""

    def __init__(self, project: Path):
        self.project = project

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *error: object) -> None: ...

    def send(self) -> tuple[int, int]:
        with pytest.MonkeyPatch.context() as patch:
            # Sending writes the place into the environment, from where the next project would take it.
            patch.setenv("MLFLOW_TRACKING_URI", mlflow_at.tracking_uri(self.project))
            return send.sync(self.project), track.count_waiting(self.project)


@dataclass
class Told:
    """A project whose run was sent, and MLflow's answers about it."""

    folder: Path
    client: Any
    result: Any = None

    def runs(self) -> dict[str, Any]:
        """The runs by model; there may be but one of each in a pipeline."""
        experiment = self.client.get_experiment_by_name(self.folder.name)
        found = self.client.search_runs([experiment.experiment_id])
        names = [(run.data.tags["pipeline"], run.data.tags["model"]) for run in found]
        assert len(set(names)) == len(names)
        return {run.data.tags["model"]: run for run in reversed(found)}

    def versions(self, variant: str) -> dict[str, list[str]]:
        """The aliases of each registered version."""
        found = self.client.search_model_versions(f"name = '{self.folder.name}-{variant}'")
        return {str(v.version): sorted(self.client.get_model_version(v.name, v.version).aliases) for v in found}

    def files(self, run: Any, folder: str) -> dict[str, Path]:
        """A run's artifacts in a folder, by name."""
        root = self.folder / ".assay" / "mlartifacts" / run.info.run_id / "artifacts" / folder
        return {path.name: path for path in root.iterdir()}


def told(folder: Path) -> Told:
    uri = mlflow_at.tracking_uri(folder)
    return Told(folder, mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri))


@pytest.fixture(scope="module", autouse=True)
def _environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PREFECT_HOME", "PREFECT_API_URL", "MLFLOW_TRACKING_URI", "ASSAY_DOWNLOADS"):
            patch.delenv(name, raising=False)
        settings.apply(tmp_path_factory.mktemp("home"))
        mlflow_at.quiet()
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with everything computed, an empty database, nothing sent."""
    folder = tmp_path_factory.mktemp("finished")
    assay.run(PARAMS, project=folder, prefect=False, track=False)
    track.create_database(folder)
    return folder


@pytest.fixture(scope="module")
def sent(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """The same project after its run was sent by a real process."""
    folder = tmp_path_factory.mktemp("told") / "digits-project"
    shutil.copytree(finished, folder)
    result = assay.run(PARAMS, project=folder, prefect=False)
    found = told(folder)
    found.result = result
    return found


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished project, from which runs are sent in this process."""
    monkeypatch.setattr(track, "Sender", Here)
    shutil.copytree(finished, tmp_path / "project")
    return tmp_path / "project"


def store_folder(found: Told, key: str) -> Path:
    return next((found.folder / ".assay" / "store").glob(f"**/{key}"))


# one run a model


def test_each_model_has_one_run_with_flat_tags(sent: Told) -> None:
    runs = sent.runs()
    assert list(sent.result.notes) == []
    assert set(runs) == {"dense", "pruned", "light"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    version = yaml.safe_load((sent.folder / "data" / "digits.dvc").read_text())["outs"][0]["md5"].removesuffix(".dir")
    tags = runs["pruned"].data.tags
    expected = {
        "pipeline": sent.result.pipeline,
        "model": "pruned",
        "kind": "variant",
        "chain": "prune/magnitude → recover/finetune",
        "gates": "passed",
        "data": version,
    }
    assert {name: tags.get(name) for name in expected} == expected
    assert {"train/model/mlp", "train/optimizer/adamw", "compress/recover/finetune"} <= set(tags["methods"].split(", "))
    assert store_folder(sent, tags["key"]).parent.name == "recover"
    assert runs["dense"].data.tags["kind"] == "dense"
    assert "gates" not in runs["dense"].data.tags


def test_the_list_shows_the_dense_model_first(sent: Told) -> None:
    experiment = sent.client.get_experiment_by_name(sent.folder.name).experiment_id
    names = [run.info.run_name for run in sent.client.search_runs([experiment], order_by=["start_time DESC"])]
    assert names == [f"{model} {sent.result.pipeline[:8]}" for model in ("dense", "pruned", "light")]


def test_parameters_are_flat(sent: Told) -> None:
    params = sent.runs()["pruned"].data.params
    expected = {
        "seed": "0",
        "prepare.0": "prepare/source/digits",
        "prepare.1.train": "300",
        "train.model": "train/model/mlp",
        "train.model.hidden": "[32]",
        "train.optimizer.lr": "0.01",
        "train.epochs": "2",
        "compress.0": "compress/prune/magnitude",
        "compress.0.sparsity": "0.5",
        "compress.1.epochs": "1",
    }
    assert {name: params.get(name) for name in expected} == expected
    assert not [name for name in sent.runs()["dense"].data.params if name.startswith("compress")]


def test_metrics_are_the_reports_numbers_and_curves_have_steps(sent: Told) -> None:
    runs = sent.runs()
    for model, run in runs.items():
        row = sent.result.summary.find(model, "accuracy/top1")
        assert run.data.metrics["accuracy/top1"] == pytest.approx(row.value, abs=1e-12)
    drop = runs["dense"].data.metrics["accuracy/top1"] - runs["pruned"].data.metrics["accuracy/top1"]
    assert runs["pruned"].data.metrics["accuracy/top1.drop"] == pytest.approx(drop, abs=1e-9)
    row = sent.result.summary.find("light", "rank", saliency="gradient")
    assert runs["light"].data.metrics["gradient/rank"] == pytest.approx(row.value, abs=1e-12)
    curve = sent.client.get_metric_history(runs["dense"].info.run_id, "train/loss")
    lines = (store_folder(sent, runs["dense"].data.tags["key"]) / "history.csv").read_text().split()
    expected = [float(line.split(",")[lines[0].split(",").index("loss")]) for line in lines[1:]]
    assert [point.step for point in curve] == [1, 2]
    assert [point.value for point in curve] == expected
    assert len(sent.client.get_metric_history(runs["pruned"].info.run_id, "compress.1/loss")) == 1


def test_the_data_set_is_an_input_with_its_dvc_hash(sent: Told) -> None:
    version = yaml.safe_load((sent.folder / "data" / "digits.dvc").read_text())["outs"][0]["md5"].removesuffix(".dir")
    for run in sent.runs().values():
        (data,) = run.inputs.dataset_inputs
        assert (data.dataset.name, data.dataset.digest) == ("digits", version)
        assert json.loads(data.dataset.profile) == {"train": 300, "test": 120}
        assert [(tag.key, tag.value) for tag in data.tags] == [("mlflow.data.context", "training")]


def test_report_and_maps_are_artifacts(sent: Told) -> None:
    for run in sent.runs().values():
        report = sent.files(run, "report")
        assert set(report) == {"report.html", "report.csv", "model_card.md", "summary.json", "params.yaml"}
        assert report["report.html"].read_bytes() == sent.result.report.read_bytes()
        assert yaml.safe_load(report["params.yaml"].read_text())["train"]["epochs"] == 2
        assert sent.files(run, "maps")["gradient.png"].read_bytes().startswith(b"\x89PNG")


# the models


def test_a_model_that_passed_is_the_candidate(sent: Told) -> None:
    assert sent.versions("pruned") == {"1": ["candidate"]}
    assert sent.versions("light") == {"1": ["candidate"]}
    assert sent.versions("dense") == {}
    key = sent.runs()["pruned"].data.tags["key"]
    assert json.loads((sent.folder / ".assay" / "registered.json").read_text()).count(key) == 1


def test_signature_and_input_example(sent: Told) -> None:
    for run in sent.runs().values():
        (output,) = run.outputs.model_outputs
        root = sent.folder / ".assay" / "mlartifacts" / "models" / output.model_id / "artifacts"
        info = Model.load(str(root))
        assert info.signature.inputs.inputs[0].shape == (-1, 1, 8, 8)
        assert info.signature.inputs.inputs[0].type == np.dtype("float32")
        assert info.signature.outputs.inputs[0].shape == (-1, 10)
        example = np.asarray(json.loads((root / "input_example.json").read_text()), dtype=np.float32)
        split = np.load(store_folder(sent, _main_data(sent)) / "test.x.npy")
        np.testing.assert_array_equal(example * 255 if split.dtype == np.uint8 else example, split[:1])
        assert "assay" in (root / "requirements.txt").read_text()


def _main_data(found: Told) -> str:
    return next((found.folder / ".assay" / "store" / "prepare" / "transform").iterdir()).name


LOAD = """
import sys
import mlflow, numpy as np, torch
from pathlib import Path
from assay.tasks.artifacts import load_model
uri, name, folder, exported = sys.argv[1:]
torch.set_num_threads(1)
mlflow.set_tracking_uri(uri)
x = np.random.default_rng(0).random((7, 1, 8, 8), dtype=np.float32)
unpickled = []
sys.addaudithook(lambda event, args: unpickled.append(args) if event == "pickle.find_class" else None)
model = mlflow.pyfunc.load_model(f"models:/{name}@candidate")
served = model.predict(x)
assert served.dtype == np.float32 and served.shape == (7, 10)
assert model.predict(x[:0]).shape == (0, 10)
assert not unpickled, unpickled
with torch.inference_mode():
    twin = load_model(Path(folder))(torch.from_numpy(x)).numpy()
if exported:
    from assay.tasks.export import session
    assert (served == session(Path(exported), 1)(x)).all()
    assert 0 < abs(served - twin).max() < 0.1 * abs(twin).max()
else:
    assert (served == twin).all(), abs(served - twin).max()
    assert not {"onnx", "onnxruntime"} & set(sys.modules)
"""


@pytest.mark.parametrize("variant", ["pruned", "light"])
def test_the_registered_model_loads_elsewhere_to_the_same_logits_without_pickle(sent: Told, variant: str) -> None:
    """An int8 model answers as the kernels that were evaluated, any other as its module, without onnxruntime."""
    folder = store_folder(sent, sent.runs()[variant].data.tags["key"])
    exported = list((sent.folder / ".assay" / "store" / "export").rglob("model.onnx"))
    assert len(exported) == 1  # of the int8 variant
    name = mlflow_at.registered_name(sent.folder, variant)
    kernels = str(exported[0]) if variant == "light" else ""
    command = [sys.executable, "-c", LOAD, mlflow_at.tracking_uri(sent.folder), name, str(folder), kernels]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_an_int8_model_carries_its_kernels(sent: Told) -> None:
    for variant, run in sent.runs().items():
        (output,) = run.outputs.model_outputs
        root = sent.folder / ".assay" / "mlartifacts" / "models" / output.model_id / "artifacts"
        int8 = variant == "light"
        assert len(list(root.rglob("model.onnx"))) == int8
        assert ("onnxruntime==" in (root / "requirements.txt").read_text()) == int8


def test_no_pickle_and_no_checkpoint_is_logged(sent: Told) -> None:
    files = [path for path in (sent.folder / ".assay" / "mlartifacts").rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if path.suffix in (".pkl", ".pickle", ".pt", ".pth", ".joblib")]
    # A pickle's first bytes may also be the length of a safetensors header, which the header follows.
    pickled = rb"\x80[\x02-\x05](?!\x00{6}\{)"
    assert not [path for path in files if re.match(pickled, path.read_bytes()[:9])]
    assert not [path for path in files if "checkpoints" in path.parts]


# nothing twice

AGAIN = """
import json, sys
import assay
result = assay.run(json.loads(sys.argv[1]), project=__import__("pathlib").Path(sys.argv[2]), prefect=False)
assert result.computed == 0 and not result.notes, (result.computed, result.notes)
assert "mlflow" not in sys.modules
"""


def test_a_run_with_nothing_to_do_logs_nothing_and_imports_no_mlflow(sent: Told) -> None:
    database = sent.folder / ".assay" / "mlflow.db"
    before = (database.read_bytes(), database.stat().st_mtime_ns)
    command = [sys.executable, "-c", AGAIN, json.dumps(PARAMS), str(sent.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (database.read_bytes(), database.stat().st_mtime_ns) == before


def test_sending_the_same_again_doubles_nothing(sent: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(track, "Sender", Here)
    folder = tmp_path / sent.folder.name
    shutil.copytree(sent.folder, folder, ignore=shutil.ignore_patterns("sent"))
    before = told(folder).runs()
    assay.run(PARAMS, project=folder, prefect=False)
    found = told(folder)
    assert {m: run.info.run_id for m, run in found.runs().items()} == {m: r.info.run_id for m, r in before.items()}
    assert found.versions("pruned") == {"1": ["candidate"]}
    run = found.runs()["dense"]
    assert len(found.client.get_metric_history(run.info.run_id, "train/loss")) == 2
    assert len(found.client.get_metric_history(run.info.run_id, "accuracy/top1")) == 1
    assert len(run.outputs.model_outputs) == 1


def test_a_new_database_is_told_again(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assay.run(PARAMS, project=project, prefect=False)
    assert track.waiting(project) == []
    (project / ".assay" / "mlflow.db").unlink()
    monkeypatch.setattr(Here, "send", lambda self: (0, track.count_waiting(self.project)))
    assert "did not take 3 runs" in assay.run(PARAMS, project=project, prefect=False).notes[0]
    assert len(track.waiting(project)) == 1


# gates and aliases


def key_of(project: Path, tree: Any = PARAMS) -> str:
    """The key of a params tree's `pruned`."""
    return open_session(tree, project=project).plan.models["pruned"].key


def test_gates_judged_anew_are_a_run_of_their_own(project: Path) -> None:
    def run(*gates: str) -> str:
        return assay.run({**PARAMS, "gates": list(gates)}, project=project, prefect=False).pipeline

    failing = run(FAILS)
    found = told(project)
    assert found.runs()["pruned"].data.tags["gates"] == "failed"
    assert FAILS in found.runs()["pruned"].data.tags["mlflow.note.content"]
    assert found.versions("pruned") == {}
    with pytest.raises(BadInput, match="no candidate"):
        track.promote(project, "pruned", key_of(project))

    passing = run(PASSES)
    assert passing != failing
    assert found.versions("pruned") == {"1": ["candidate"]}
    assert track.promote(project, "pruned", key_of(project)) == ("project-pruned", "1", passing)
    assert found.versions("pruned") == {"1": ["candidate", "champion"]}

    assert run(FAILS, PASSES) not in (failing, passing)
    assert found.versions("pruned") == {"1": ["champion"]}
    with pytest.raises(BadInput, match="no candidate"):
        track.promote(project, "pruned", key_of(project))


def test_a_trial_changes_nothing_in_the_registry(project: Path) -> None:
    params = project / "params.yaml"
    params.write_text(yaml.safe_dump({**PARAMS, "gates": [PASSES]}), encoding="utf-8")
    assay.run(params, project=project, prefect=False)
    found = told(project)
    assert found.versions("pruned") == {"1": ["candidate"]}
    assay.run(params, overrides=[f"gates=['{FAILS}']"], project=project, prefect=False)
    assay.run(params, overrides=["compress.pruned.0.sparsity=0.6"], project=project, prefect=False)
    assert found.versions("pruned") == {"1": ["candidate"]}


def test_only_the_candidate_of_these_params_is_promoted(project: Path) -> None:
    other = {**PARAMS, "compress": {**PARAMS["compress"], "pruned": [{"name": "prune/magnitude", "sparsity": 0.6}]}}
    assay.run({**PARAMS, "gates": [PASSES]}, project=project, prefect=False)
    with pytest.raises(BadInput, match=r"version 1, of pipeline .* and not the model of these params"):
        track.promote(project, "pruned", key_of(project, other))


def test_a_new_candidate_leaves_the_champion_and_an_old_model_is_not_registered_twice(project: Path) -> None:
    assay.run(PARAMS, project=project, prefect=False)
    track.promote(project, "pruned", key_of(project))
    other = {"pruned": [{"name": "prune/magnitude", "sparsity": 0.6}], "light": PARAMS["compress"]["light"]}
    assay.run({**PARAMS, "compress": other, "gates": [PASSES]}, project=project, prefect=False)
    found = told(project)
    assert found.versions("pruned") == {"1": ["champion"], "2": ["candidate"]}
    assert found.versions("light") == {"1": ["candidate"]}
    experiment = found.client.get_experiment_by_name("project").experiment_id
    runs = found.client.search_runs([experiment], "tags.model = 'light'")
    assert len(runs) == 2
    assert len({run.data.tags["key"] for run in runs}) == 1


# the outbox


def test_a_message_stands_alone(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a cleaned store nor a lost report takes anything from what waits."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    result = assay.run(PARAMS, project=project, prefect=False)
    assert ["127.0.0.1:9" in note and "assay track sync" in note for note in result.notes] == [True]
    shutil.rmtree(project / ".assay" / "store")
    shutil.rmtree(project / "reports")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert track.sync(project) == (3, 0)
    assert track.sync(project) == (0, 0)
    found = told(project)
    assert set(found.runs()) == {"dense", "pruned", "light"}
    assert found.versions("pruned") == {"1": ["candidate"]}
    assert "report.html" in found.files(found.runs()["light"], "report")


def test_waiting_twice_sends_once_and_a_broken_message_holds_up_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assay.run({**PARAMS, "gates": [FAILS]}, project=project, prefect=False)
    assay.run({**PARAMS, "gates": [FAILS]}, project=project, prefect=False)
    assert len(track.waiting(project)) == 1
    assay.run({**PARAMS, "gates": [PASSES]}, project=project, prefect=False)
    first, _ = track.waiting(project)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    text = (first / track.MESSAGE).read_text()
    (first / track.MESSAGE).write_text(text.replace('"outputs"', '"nothing"'))
    assert track.sync(project) == (3, 3)
    assert track.waiting(project) == [first]
    assert "KeyError" in (project / ".assay" / "logs" / "mlflow.log").read_text()
    assert told(project).versions("pruned") == {"1": ["candidate"]}


def test_a_sender_that_is_not_told_sends_nothing_and_ends(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with track.Sender(project) as sender:
        assert sender.process.poll() is None
    assert sender.process.poll() is not None
    assert sender.send() == (0, 0)


# secrets


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("https://ann:pa55@host:81/mlflow", "https://ann:***@host:81/mlflow"),
        ("https://t0ken@host/mlflow", "https://***@host/mlflow"),
        ("postgresql://ann:p@ss:w@host/db", "postgresql://ann:***@host/db"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
    ],
)
def test_a_uri_is_shown_without_its_password(uri: str, shown: str) -> None:
    assert mlflow_at.without_password(uri) == shown


def test_commands_and_logs_hide_passwords(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = "assay run --set store.remote=s3://key:verysecret@bucket/x"
    assert message.without_secrets(command) == "assay run --set store.remote=s3://key:***@bucket/x"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:pa55@host")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
    track.log(tmp_path, "no answer from http://ann:pa55@host with pa55 and t0ken")
    text = (tmp_path / ".assay" / "logs" / "mlflow.log").read_text()
    assert "no answer from" in text
    assert "pa55" not in text
    assert "t0ken" not in text


def test_names_that_mlflow_takes(tmp_path: Path) -> None:
    odd = tmp_path / "my project: v2/é"
    assert mlflow_at.experiment_name(odd.parent) == "my-project--v2"
    assert mlflow_at.registered_name(tmp_path / "a b", "slim-int8") == "a-b-slim-int8"
    assert message.metric_name("smooth_grad#2:rank.at (5)") == "smooth_grad_2/rank.at _5_"
