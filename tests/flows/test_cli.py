"""The commands, each as a person would use it; what they print, write and end with."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
import yaml
from PIL import Image

from assay.flows import cli
from assay.flows.session import open_session
from assay.tasks.artifacts import load_data, load_model
from assay.tasks.export import session

PARAMS: dict[str, Any] = {
    "seed": 0,
    "device": "cpu",
    "workers": 1,
    "prepare": ["source/digits", {"name": "transform/subset", "train": 400, "test": 100}, "transform/normalize"],
    "train": {"model": {"name": "small_cnn", "width": 8}, "optimizer": {"name": "adamw", "lr": 0.01}, "epochs": 2},
    "compress": {"pruned": [{"name": "prune/magnitude", "sparsity": 0.3}], "int8": ["quantize/int8_static"]},
    "attribute": {"saliency": ["gradient"], "agreement": ["rank"], "controls": ["random"], "images": 16},
    "evaluate": ["accuracy/top1", "calibration/ece"],
    "gates": ["accuracy/top1 >= 0.999"],
}
BIN = Path(sys.executable).parent
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))},
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",  # nobody answers: the time goes into what is tested
}


def process(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A program that ran to its end."""
    return subprocess.run(
        command,
        cwd=folder,
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def strict(text: str) -> Any:
    """JSON without NaN and Infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


@dataclass
class Done:
    """A finished project and what its run answered."""

    folder: Path
    answer: dict[str, Any]
    code: int
    said: str


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("cli") / "project"
    folder.mkdir()
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS, sort_keys=False), encoding="utf-8")
    ran = process(folder, "assay", "run", "--no-server", "--json")
    return Done(folder, strict(ran.stdout), ran.returncode, ran.stderr)


class Assay:
    """Commands in this process, in a folder."""

    def __init__(self, folder: Path, capsys: Any):
        self.folder, self.capsys = folder, capsys

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """What a command that must end with `code` printed: its standard output, or where it failed its
        standard error."""
        with pytest.raises(SystemExit) as stop:
            cli.main(list(arguments))
        out, err = self.capsys.readouterr()
        assert stop.value.code == code, out + err
        assert "Traceback" not in err
        if code in (1, 2):
            assert out == ""
            assert "error" in err.lower()
        return str(err if code in (1, 2) else out)


@pytest.fixture
def assay(done: Done, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> Assay:
    """Commands in the finished project."""
    monkeypatch.chdir(done.folder)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    for name in ("PREFECT_HOME", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    return Assay(done.folder, capsys)


# run, plan, report, compare


def test_run_answers_in_json_alone(done: Done) -> None:
    assert done.code == 3, done.said
    assert done.answer["models"] == ["dense", "pruned", "int8"]
    assert {gate["variant"]: gate["passed"] for gate in done.answer["gates"]} == {"pruned": False, "int8": False}
    assert Path(done.answer["report"]).is_file()
    assert done.answer["computed"] > 20
    assert "{" not in done.said


def test_a_run_with_nothing_to_do(assay: Assay, done: Done) -> None:
    answer = strict(assay("run", "--no-server", "--json", code=3))
    assert answer["computed"] == 0
    assert answer["rows"] == done.answer["rows"]
    assert strict(assay("run", "--no-server", "--json", "--set", "gates=[accuracy/top1 > 0]"))["computed"] == 0


def test_run_prints_a_table(done: Done) -> None:
    ran = process(done.folder, "assay", "run", "--no-server", COLUMNS="200")
    assert ran.returncode == 3
    assert ran.stdout == ""
    for word in ("pruned", "int8", "accuracy/top1", "failed", "gate failed for pruned", "report: ", "assay ui"):
        assert word in ran.stderr


def test_plan(assay: Assay) -> None:
    answer = strict(assay("plan", "--json"))
    assert [cell for cell in answer["cells"] if cell["run"]] == []
    answer = strict(assay("plan", "--json", "--set", "compress.pruned.0.sparsity=0.4"))
    assert {cell["stage"] for cell in answer["cells"] if cell["run"]} == {"compress", "attribute", "evaluate"}
    shown = assay("plan", "--set", "compress.pruned.0.sparsity=0.4")
    assert "RUN  compress pruned 0 prune/magnitude" in shown
    assert "sparsity 0.3 → 0.4" in " ".join(shown.split())
    assert "HIT  train dense" in assay("plan", "--all")


def test_report_and_compare(assay: Assay, done: Done) -> None:
    pipeline = done.answer["pipeline"]
    path = Path(assay("report").strip())
    assert path.is_file()
    assert pipeline in str(path)
    assert assay("report", pipeline[:6]).strip().endswith("report.html")
    other = strict(assay("run", "--no-server", "--json", "--set", "evaluate=[accuracy/top1]", "--set", "gates=[]"))
    assert other["computed"] == 0
    rows = strict(assay("compare", pipeline[:8], other["pipeline"][:8], "--json"))
    both = next(row for row in rows if row["model"] == "dense" and "top1" in row["number"])
    assert both[pipeline[:8]] == both[other["pipeline"][:8]]
    alone = next(row for row in rows if row["model"] == "dense" and "ece" in row["number"])
    assert other["pipeline"][:8] not in alone
    assert "dense" in assay("compare", pipeline[:8], other["pipeline"][:8])
    assert "unknown" in assay("report", "zz", code=2)
    assert "not computed yet" in assay("report", "--set", "train.epochs=9", code=2)
    assert "unknown" in assay("compare", pipeline[:8], "zz", code=2)


def test_faults_of_the_environment_are_no_bad_input(assay: Assay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert "no Prefect server answers there" in assay("run", "--set", "train.epochs=5", code=1)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(["rnu"], "rnu"), (["run", "--fast"], "--fast"), (["run", "--only", "trian"], "trian"), (["stage", "x"], "'x'"),
     (["stage", "compress", "--variant", "none"], "none"), (["run", "--params", "gone.yaml"], "gone.yaml"),
     (["serve"], "--interval"), (["serve", "--interval", "-3"], "positive"), (["serve", "--cron", "* *"], "* *"),
     (["clean"], "--older-than"), (["clean", "--keep-gb", "-1"], "negative"), (["promote", "none"], "none")],
)  # fmt: skip
def test_wrong_arguments(assay: Assay, arguments: list[str], word: str) -> None:
    assert word in assay(*arguments, code=2)


# methods, data


def test_methods(assay: Assay) -> None:
    rows = strict(assay("methods", "list", "attribute/saliency", "--json"))
    assert {"attribute/saliency/gradient", "attribute/saliency/grad_cam"} <= {row["id"] for row in rows}
    assert all(row["title"] and not row["broken"] for row in rows)
    shown = strict(assay("methods", "show", "train/optimizer/adamw", "--json"))
    assert shown["card"]["title"]
    assert any(row["name"] == "lr" for row in shown["parameters"])
    assert "name: adamw" in assay("methods", "show", "train/optimizer/adamw")
    outcomes = strict(assay("methods", "check", "attribute/agreement/cosine", "--json"))
    assert outcomes
    assert "saliency" in assay("methods", "list", "attribute/salience", code=2)
    assert "adamw" in assay("methods", "show", "train/optimizer/adamv", code=2)


def test_data(assay: Assay) -> None:
    (row,) = strict(assay("data", "list", "--json"))
    assert row["name"] == "digits"
    assert row["sizes"] == {"train": 1438, "test": 359}
    (state,) = strict(assay("data", "status", "--json"))
    assert state == {"name": "digits", "version": row["versions"][-1], "state": "as added"}
    assert "digits" in assay("data", "list")
    assert "as added" in assay("data", "status")


# export, predict


def model(done: Done, name: str) -> Path:
    """The artifact of a model of the finished run."""
    found = open_session(done.folder / "params.yaml")
    ref = found.plan.models[name]
    return found.store.folder(ref.slot, ref.key)


@pytest.fixture
def digits(done: Done, tmp_path: Path) -> tuple[list[str], np.ndarray]:
    """Image files of the test split, and the same examples as the models see them."""
    found = open_session(done.folder / "params.yaml")
    ref = found.plan.data["main"]
    seen = load_data(found.store.folder(ref.slot, ref.key))
    raw = load_data(done.folder / "data" / "digits").test.fields["x"]
    at = [0, 3, 5]
    normalised = np.stack([seen.test.fields["x"][i] for i in at])
    spec = seen.spec
    pixels = (normalised - spec.low[0]) / (spec.high[0] - spec.low[0])  # what the transform made of 0..255
    images = np.round(pixels * 255).astype(np.uint8)[:, 0]
    assert all((images[i] == raw[:, 0]).all(axis=(1, 2)).any() for i in range(len(at)))
    files = []
    for i, pixel in enumerate(images):
        files.append(str(tmp_path / f"image{i}.png"))
        Image.fromarray(pixel).save(files[-1])
    return files, normalised


@pytest.mark.parametrize("name", ["dense", "pruned", "int8"])
def test_predict(assay: Assay, done: Done, digits: tuple[list[str], np.ndarray], name: str) -> None:
    """The probabilities are those of the model on the same examples out of the data set: of the kernels, where
    it is int8."""
    files, x = digits
    rows = strict(assay("predict", name, *files, "--json"))
    found = open_session(done.folder / "params.yaml")
    if name == "int8":
        ref = found.plan.exported[name]
        logits = torch.from_numpy(session(found.store.folder(ref.slot, ref.key) / "model.onnx", 1)(x))
    else:
        with torch.inference_mode():
            logits = load_model(model(done, name))(torch.from_numpy(x))
    expected = torch.softmax(logits, dim=1).numpy()
    for file, row, probabilities in zip(files, rows, expected, strict=True):
        assert row["image"] == file
        assert list(row["probabilities"]) == list("0123456789")
        np.testing.assert_allclose(list(row["probabilities"].values()), probabilities, atol=1e-5)
        assert row["label"] == str(probabilities.argmax())


def test_predict_with_maps(assay: Assay, digits: tuple[list[str], np.ndarray], tmp_path: Path) -> None:
    files, _ = digits
    out = tmp_path / "maps"
    rows = strict(assay("predict", "pruned", str(tmp_path), "--saliency", "grad_cam", "--out", str(out), "--json"))
    assert [row["image"] for row in rows] == files
    for row in rows:
        with Image.open(row["map"]) as image:
            assert image.size == (8, 8)
            assert np.asarray(image).max() == 255
    shown = assay("predict", "dense", files[0])
    assert rows[0]["label"] in shown


def test_predict_refuses(assay: Assay, digits: tuple[list[str], np.ndarray], tmp_path: Path) -> None:
    file = digits[0][0]
    (tmp_path / "words.png").write_text("no image", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    Image.fromarray(np.full((8, 8), 3000, np.uint16)).save(tmp_path / "deep.png")
    for arguments, word in [
        (["prund", file], "dense"),
        (["pruned", str(tmp_path / "gone.png")], "gone.png"),
        (["pruned", str(tmp_path / "words.png")], "words.png"),
        (["pruned", str(tmp_path / "deep.png")], "8 bits"),
        (["pruned", str(tmp_path / "empty")], "no image files"),
        (["pruned", file, "--saliency", "gradiant"], "gradient"),
        (["pruned", file, "--set", "train.epochs=7"], "not computed yet"),
    ]:
        assert word in assay("predict", *arguments, code=2)


@pytest.mark.parametrize("name", ["dense", "int8"])
def test_export(assay: Assay, done: Done, digits: tuple[list[str], np.ndarray], tmp_path: Path, name: str) -> None:
    target = tmp_path / "new" / "model.onnx"
    assay("export", name, str(target))
    with torch.inference_mode():
        expected = load_model(model(done, name))(torch.from_numpy(digits[1])).numpy()
    found = session(target, 1)(digits[1])
    limit = 1e-4 if name == "dense" else 0.05 * np.abs(expected).max()
    assert np.median(np.abs(found - expected)) <= limit
    described = strict(target.with_suffix(".json").read_text(encoding="utf-8"))
    assert described["spec"]["classes"] == list("0123456789")
    (step,) = described["preprocessing"]
    assert step["id"] == "prepare/transform/normalize"
    x = np.asarray(Image.open(digits[0][0]), dtype=np.float32) / 255
    mean, std = (np.asarray(step["record"][key], dtype=np.float32) for key in ("mean", "deviation"))
    np.testing.assert_allclose((x - mean) / std, digits[1][0, 0], atol=1e-5)
    assert sorted(path.name for path in target.parent.iterdir()) == ["model.json", "model.onnx"]


def test_export_refuses(assay: Assay, tmp_path: Path) -> None:
    assert "folder" in assay("export", "dense", str(tmp_path), code=2)
    assert ".onnx" in assay("export", "dense", str(tmp_path / "a.json"), code=2)
    assert "pruned" in assay("export", "prund", str(tmp_path / "a.onnx"), code=2)


# upkeep


def test_doctor(assay: Assay) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["doctor", "--json"])
    rows = strict(assay.capsys.readouterr().out)
    assert stop.value.code == (0 if all(row["ok"] for row in rows) else 1)
    found = {row["what"]: row for row in rows}
    assert {
        "python",
        "torch",
        "prefect",
        "mlflow",
        "dvc",
        "CPU",
        "CUDA",
        "Prefect",
        "MLflow",
        "disk",
        "methods",
    } <= set(found)
    assert found["torch"]["found"].startswith(torch.__version__.split("+")[0])
    assert found["MLflow"]["ok"] is False


def test_clean(done: Done, assay: Assay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(done.folder, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    store = tmp_path / "copy" / ".assay" / "store"
    before = sorted(store.rglob("manifest.json"))
    assay("clean", "--keep-gb", "0.000001", "--dry-run")
    assay("clean", "--older-than", "1")
    assert sorted(store.rglob("manifest.json")) == before
    first = next(path for path in before if "saliency" in str(path))
    os.utime(first, (1e9, 1e9))
    assay("clean", "--older-than", "1")
    assert set(before) - set(store.rglob("manifest.json")) == {first}
    assay("clean", "--keep-gb", "0.000001")
    assert list(store.rglob("manifest.json")) == []
    assert not list((store / "damaged").glob("*"))


def test_init(assay: Assay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "mine"
    assay("init", str(target))
    assert {"params.yaml", "dvc.yaml", ".gitignore", ".dvc"} <= {path.name for path in target.iterdir()}
    monkeypatch.chdir(target)
    answer = strict(assay("plan", "--json"))
    assert answer["unseen"] == ["prepare"]
    assert {cell["stage"] for cell in answer["cells"]} == {"prepare", "train", "compress", "attribute", "evaluate"}
    assert "is there already" in assay("init", str(target), code=2)
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert "is a file" in assay("init", str(tmp_path / "file"), code=2)


# help, completion, imports


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with its path."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


ROOT = typer.main.get_command(cli.app)
COMMANDS = dict(commands(ROOT))


def test_every_command_is_there() -> None:
    assert set(COMMANDS) >= {
        ("init",), ("run",), ("plan",), ("stage",), ("report",), ("compare",), ("serve",), ("promote",), ("export",),
        ("predict",), ("ui",), ("doctor",), ("clean",), ("track", "sync"), ("data", "add"), ("data", "list"),
        ("data", "status"), ("methods", "list"), ("methods", "show"), ("methods", "new"), ("methods", "check"),
    }  # fmt: skip


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_has_an_example_that_parses(path: tuple[str, ...], capsys: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([*path, "--help"])
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"Example: assay {' '.join(path)}" in shown
    examples = re.findall(r"assay .*?(?=$|   )", COMMANDS[path].epilog)
    assert examples
    for example in examples:
        words = shlex.split(example)[1:]
        assert tuple(words[: len(path)]) == path
        COMMANDS[path].make_context(" ".join(path), words[len(path) :])


def completed(words: str, **environment: str) -> str:
    """What the shell is offered after these words."""
    count = str(len(words.split(" ")) - 1)
    ran = process(
        Path.cwd(), "assay", _ASSAY_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=count, **environment
    )
    return ran.stdout


def test_completion() -> None:
    # Without a second command bash would become the program, and the program looks for the shell that called it.
    shown = process(Path.cwd(), "bash", "-c", "assay --show-completion; true").stdout
    assert "_ASSAY_COMPLETE=complete_bash" in shown
    assert "predict" in completed("assay pre")
    assert "attribute/saliency/grad_cam" in completed("assay methods show attribute/saliency/grad_c")
    assert "evaluate" in completed("assay run --only eva")


WATCH = """
import sys
from assay.flows import cli
try:
    cli.main(sys.argv[1:])
except SystemExit as stop:
    assert not stop.code, stop.code
heavy = {"torch", "prefect", "mlflow", "dvc", "numpy", "sklearn", "matplotlib", "onnxruntime"}
print("IMPORTED", *sorted(heavy & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [(["--help"], set()), (["run", "--help"], set()), (["plan"], {"torch", "numpy"})],
)
def test_imports(done: Done, arguments: list[str], allowed: set[str]) -> None:
    ran = process(done.folder, sys.executable, "-c", WATCH, *arguments)
    assert ran.returncode == 0, ran.stderr
    imported = set(ran.stdout.rpartition("IMPORTED")[2].split())
    assert imported <= allowed


# from Python

SCRIPT = """
import json
import assay

result = assay.run("params.yaml", prefect=False, track=False)
print(json.dumps([result.pipeline, result.exit_code, result.computed, result.summary.to_json()["rows"]]))
"""


def test_from_a_plain_script(done: Done, tmp_path: Path) -> None:
    """Without `if __name__ == "__main__"`: computes everything anew, to the same numbers."""
    shutil.copy(done.folder / "params.yaml", tmp_path)
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    ran = process(tmp_path, sys.executable, "script.py")
    assert ran.returncode == 0, ran.stderr
    pipeline, code, computed, rows = strict(ran.stdout)
    assert code == 3
    assert computed == done.answer["computed"]
    assert pipeline == done.answer["pipeline"]
    assert rows == done.answer["rows"]


def test_from_python_with_a_mapping(done: Done, assay: Assay) -> None:
    import assay as package

    result = package.run(PARAMS, overrides=["gates=[]"], prefect=False, track=False)
    assert result.computed == 0
    assert result.passed
    assert result.exit_code == 0
    assert result.summary.to_json()["rows"] == done.answer["rows"]
    assert result.report.is_file()
