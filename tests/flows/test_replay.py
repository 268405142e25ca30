"""DVC versions the data and replays the stages: `dvc status` is clean after a run, and stays so."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from assay.flows import cli
from assay.tasks import versions

PARAMS: dict[str, Any] = {
    "seed": 0,
    "device": "cpu",
    "threads": 1,
    "workers": 1,
    "prepare": ["source/digits", {"name": "transform/subset", "train": 160, "test": 60}],
    "datasets": {},
    "trainings": {},
    "train": {"model": {"name": "mlp", "hidden": [12]}, "epochs": 1},
    "compress": {
        "pruned": [{"name": "prune/magnitude", "sparsity": 0.5}],
        "low": ["factorize/svd", "quantize/int8_static"],
    },
    "attribute": {
        "saliency": ["gradient"],
        "agreement": ["rank"],
        "audit": [{"name": "deletion", "steps": 4}],
        "controls": ["random"],
        "images": 12,
    },
    "evaluate": ["accuracy/top1", "cost/latency"],
    "gates": ["accuracy/top1.drop <= 1"],
}
CHATTER = ("lock file", "git add", "autostage", "Initialized DVC", "dvc push")
BIN = str(Path(sys.executable).parent)
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))},
    "PATH": BIN + os.pathsep + os.environ["PATH"],
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",  # nobody answers: the time goes into what is tested
    "DVC_NO_ANALYTICS": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.com",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.com",
}


def shell(folder: Path, *command: str, code: int = 0) -> str:
    """What a program says; it must end with `code`. Its temporary files, and so the lock that runs hold while
    they measure the machine, are its own."""
    machine = folder / ".assay" / "tmp"
    machine.mkdir(parents=True, exist_ok=True)
    environment = {**ENVIRONMENT, "TMPDIR": str(machine)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    return said


@dataclass
class Replay:
    """A project under git and DVC."""

    folder: Path
    capsys: Any = None

    @property
    def lock(self) -> dict[str, Any]:
        """The stages of `dvc.lock`."""
        stages: dict[str, Any] = yaml.safe_load((self.folder / "dvc.lock").read_text(encoding="utf-8"))["stages"]
        return stages

    @property
    def metrics(self) -> bytes:
        """The metrics file."""
        return (self.folder / "out" / "metrics.json").read_bytes()

    def recorded(self) -> dict[str, bytes]:
        """Every file that DVC tracks of the run, and its lock."""
        files = [self.folder / "dvc.lock", *(p for p in (self.folder / "out").rglob("*") if p.is_file())]
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in files}

    def write(self, tree: dict[str, Any]) -> None:
        """Writes params.yaml."""
        (self.folder / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")

    def assay(self, *arguments: str, code: int = 0) -> str:
        """Runs a command in this process; what it wrote to standard error."""
        before = os.getcwd()
        os.chdir(self.folder)
        try:
            with pytest.raises(SystemExit) as stop:
                cli.main(list(arguments))
        finally:
            os.chdir(before)
        said: str = self.capsys.readouterr().err
        assert stop.value.code == code, said
        return " ".join(said.split())

    def run(self, *arguments: str, code: int = 0) -> str:
        """`assay run`, without a server."""
        return self.assay("run", "--no-server", *arguments, code=code)

    def clean(self) -> None:
        """Asserts that `dvc status` has nothing to say."""
        said = shell(self.folder, "dvc", "status")
        assert "up to date" in said, said


@dataclass
class First:
    """The project after its first run, and what that run wrote on the screen."""

    folder: Path
    said: str


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> First:
    folder = tmp_path_factory.mktemp("replay") / "project"
    folder.mkdir()
    shell(folder, "git", "init", "--quiet", "--initial-branch=main")
    said = shell(folder, "assay", "init", ".")
    Replay(folder).write(PARAMS)
    said += shell(folder, "assay", "run", "--no-server")
    return First(folder, said)


@pytest.fixture
def copy(first: First, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> Replay:
    """A copy of the project as it is after its first run."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    for name in ("PREFECT_HOME", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    shutil.copytree(first.folder, tmp_path / "copy", symlinks=True)
    return Replay(tmp_path / "copy", capsys)


def test_clean_after_a_run(first: First) -> None:
    found = Replay(first.folder)
    found.clean()
    assert not [words for words in CHATTER if words in first.said]
    assert set(found.lock) == {
        "prepare", "train", "compress@pruned", "compress@low", "attribute", "evaluate", "report",
    }  # fmt: skip
    metrics = json.loads(found.metrics)
    assert 0 < metrics["dense"]["accuracy/top1"] <= 1
    assert "latency" not in str(metrics)
    assert "latency" in (first.folder / "out" / "timings.json").read_text(encoding="utf-8")


def test_git_sees_what_belongs_in_it(first: First) -> None:
    shown = shell(first.folder, "git", "status", "--porcelain", "--untracked-files=all")
    files = {line[3:] for line in shown.splitlines()}
    assert files == {
        ".dvc/.gitignore", ".dvc/config", ".dvcignore", ".gitignore", "data/digits.dvc", "dvc.lock", "dvc.yaml",
        "params.yaml",
    }  # fmt: skip


def test_nothing_to_do(copy: Replay) -> None:
    before = copy.recorded()
    said = shell(copy.folder, "dvc", "repro")
    assert "up to date" in said
    assert "Running stage" not in said
    copy.run()
    assert copy.recorded() == before


def test_other_params_leave_the_record_alone(copy: Replay) -> None:
    before = copy.recorded()
    said = copy.run("--set", "attribute.images=10")
    assert "dvc.lock keeps the run of params.yaml: this run's params differ from it" in said
    assert copy.recorded() == before
    copy.clean()


def test_replay_gives_the_same_metrics(copy: Replay) -> None:
    """With an empty store, and out/ gone too."""
    before = copy.metrics
    shutil.rmtree(copy.folder / ".assay" / "store")
    shutil.rmtree(copy.folder / "out")
    said = shell(copy.folder, "dvc", "repro", "--force")
    assert said.count("Running stage") == 7
    assert copy.metrics == before
    copy.clean()
    said = copy.run()
    assert "computed 0 of" in said
    assert copy.metrics == before
    copy.clean()


def test_variants_come_and_go(copy: Replay) -> None:
    tree = {**PARAMS, "compress": {"pruned": PARAMS["compress"]["pruned"]}}
    copy.write(tree)
    copy.run()
    assert "compress@low" not in copy.lock
    assert not (copy.folder / "out" / "compress" / "low.json").exists()
    copy.clean()
    tree["compress"] = {**tree["compress"], "lower": [{"name": "factorize/svd"}], "cut": [{"name": "prune/magnitude"}]}
    copy.write(tree)
    copy.run()
    assert {name for name in copy.lock if "@" in name} == {"compress@pruned", "compress@lower", "compress@cut"}
    copy.clean()


def test_a_fresh_clone(copy: Replay, tmp_path: Path) -> None:
    shell(copy.folder, "git", "add", "--all")
    shell(copy.folder, "git", "commit", "--quiet", "--message", "one")
    shell(tmp_path, "git", "clone", "--quiet", str(copy.folder), "clone")
    clone = Replay(tmp_path / "clone", copy.capsys)
    assert not (clone.folder / "data" / "digits").exists()
    clone.run()
    clone.clean()
    assert clone.metrics == copy.metrics
    for name in ("train.x.npy", "dataset.json"):
        found, expected = (place.folder / "data" / "digits" / name for place in (clone, copy))
        assert found.read_bytes() == expected.read_bytes()
    changed = shell(clone.folder, "git", "diff", "--unified=0")
    kept = [line for line in changed.splitlines() if line[0] in "+-" and line[:3] not in ("+++", "---")]
    assert all("md5" in line or "size" in line for line in kept), changed
    assert len(kept) <= 4, changed  # the file of timings, and no other


def test_lost_data_come_back(copy: Replay) -> None:
    shutil.rmtree(copy.folder / "data" / "digits")
    copy.run()
    assert (copy.folder / "data" / "digits" / "dataset.json").exists()
    copy.clean()


def arrays(path: Path, seed: int) -> str:
    """Two classes of little images; where the bright half is says which, `seed` how noisy."""
    rng = np.random.default_rng(seed)
    y = np.arange(120) % 2
    x = rng.random((120, 6, 6)) * (0.2 if seed == 0 else 1.0)
    x[y == 1, :3] += 0.3 if seed == 0 else 0.02
    np.savez(path, x=np.clip(x, 0, 1), y=y)
    return str(path)


def test_versions_of_data(copy: Replay, tmp_path: Path) -> None:
    """A changed data set is a new version; an older one, named, gives the older numbers."""
    copy.assay("data", "add", "mine", arrays(tmp_path / "a.npz", 0))
    tree = {
        **PARAMS,
        "prepare": [{"name": "source/arrays", "dataset": "mine"}],
        "train": {**PARAMS["train"], "epochs": 8, "optimizer": {"name": "adamw", "lr": 0.01}},
        "compress": {},
        "attribute": {},
        "evaluate": ["calibration/ece"],
        "gates": [],
    }
    copy.write(tree)
    said = copy.run()
    assert "dvc.yaml: the deps of prepare are data/digits, but the run used data/mine" in said
    path = copy.folder / "dvc.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("data/digits]", "data/mine]"), encoding="utf-8")
    assert "dvc.yaml" not in copy.run()
    copy.clean()
    older = copy.metrics
    said = copy.assay("data", "add", "mine", arrays(tmp_path / "b.npz", 1))
    assert "as before" not in said
    copy.run()
    copy.clean()
    newer = copy.metrics
    assert newer != older
    known = versions.versions(copy.folder, "mine")
    assert len(known) == 2
    dvc = (copy.folder / "data" / "mine.dvc").read_bytes()
    tree["prepare"] = [{"name": "source/arrays", "dataset": "mine", "rev": known[0][:7]}]
    copy.write(tree)
    shutil.rmtree(copy.folder / ".assay" / "store")
    copy.run()
    assert copy.metrics == older
    copy.clean()
    assert (copy.folder / "data" / "mine.dvc").read_bytes() == dvc
    said = copy.assay("data", "add", "mine", str(tmp_path / "a.npz"))
    assert "as before" in said
    assert versions.versions(copy.folder, "mine") == known[::-1]
    said = copy.run("--set", "prepare.0.rev='77'", code=2)
    assert "rev '77' is not one of its versions" in said


def test_changed_data_are_refused_until_they_are_added(copy: Replay) -> None:
    path = copy.folder / "data" / "digits" / "train.x.npy"
    x = np.load(path)
    np.save(path, 255 - x)
    before, dvc = copy.recorded(), (copy.folder / "data" / "digits.dvc").read_bytes()
    assert "data/digits was changed since it was added" in copy.run(code=2)
    assert (copy.folder / "data" / "digits.dvc").read_bytes() == dvc
    assert copy.recorded() == before


def test_data_that_change_during_a_run_are_not_recorded(copy: Replay) -> None:
    from assay.flows.record import commit
    from assay.flows.session import open_session
    from assay.tasks.results import summarise

    session = open_session(copy.folder / "params.yaml")
    path = copy.folder / "data" / "digits" / "train.x.npy"
    np.save(path, 255 - np.load(path))
    before = (copy.folder / "dvc.lock").read_bytes(), (copy.folder / "data" / "digits.dvc").read_bytes()
    note = commit(session, summarise(session.plan, session.store))
    assert "data/digits was changed while the run was going" in note
    assert before == ((copy.folder / "dvc.lock").read_bytes(), (copy.folder / "data" / "digits.dvc").read_bytes())


HOLD = """
import sys, time, zc.lockfile
lock = zc.lockfile.LockFile(sys.argv[1])
print("held", flush=True)
time.sleep(float(sys.argv[2]))
lock.close()
"""


@pytest.fixture
def hold(copy: Replay) -> Any:
    """Holds DVC's lock in another process for so many seconds."""
    running: list[subprocess.Popen[str]] = []

    def start(seconds: float) -> None:
        lock = str(copy.folder / ".dvc" / "tmp" / "lock")
        running.append(
            subprocess.Popen([sys.executable, "-c", HOLD, lock, str(seconds)], stdout=subprocess.PIPE, text=True)
        )
        assert running[-1].stdout is not None
        assert running[-1].stdout.readline() == "held\n"

    yield start
    for process in running:
        process.kill()
        process.wait()


def test_a_run_waits_for_another_dvc_process(copy: Replay, hold: Callable[[float], None]) -> None:
    (copy.folder / "dvc.lock").unlink()
    hold(8.0)
    begun = time.monotonic()
    said = copy.run()
    assert time.monotonic() - begun > 4
    assert "dvc.lock" not in said
    copy.clean()


def test_a_run_does_not_wait_for_ever(
    copy: Replay, hold: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The numbers and the report are there all the same."""
    monkeypatch.setattr(versions, "LOCK_SECONDS", 0.0)
    hold(300.0)
    before = (copy.folder / "dvc.lock").read_bytes()
    said = copy.run()
    assert "dvc.lock was not updated: another DVC process is at work: run the same command when it is done" in said
    assert (copy.folder / "dvc.lock").read_bytes() == before


def test_a_section_that_dvc_misses_is_named(copy: Replay) -> None:
    tree = {name: value for name, value in PARAMS.items() if name != "datasets"}
    copy.write(tree)
    said = copy.run()
    assert "dvc.lock was not updated" in said
    assert "'datasets' are missing from 'params.yaml'" in said


@pytest.mark.parametrize("under_git", [True, False])
def test_a_project_below_a_repository_or_without_one(copy: Replay, tmp_path: Path, under_git: bool) -> None:
    if under_git:
        shell(tmp_path, "git", "init", "--quiet", "--initial-branch=main")
    project = Replay(tmp_path / "below" / "project", copy.capsys)
    copy.assay("init", str(project.folder))
    project.assay("data", "add", "digits", "source/digits")
    shell(project.folder, "dvc", "status", "data/digits.dvc")
    if under_git:
        shown = shell(tmp_path, "git", "status", "--porcelain", "--untracked-files=all", "below")
        assert "data/digits.dvc" in shown
        assert "npy" not in shown
        assert ".assay" not in shown
