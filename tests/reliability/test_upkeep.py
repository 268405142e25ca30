"""`clean` takes only what is the store's and nobody needs; damaged copies of data and of training states are met."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from assay.flows import cli
from assay.flows.session import drop_forced, open_session
from assay.plugins.contract import Data, DataSpec, Split
from assay.plugins.values import AssayError, BadInput
from assay.tasks import training, versions
from assay.tasks.artifacts import save_data
from assay.tasks.askable import effective
from assay.tasks.cells import recipe_spec
from assay.tasks.checkpoint import DamagedCheckpoint, load_checkpoint, resume_from, save_checkpoint
from assay.tasks.clean import removable, remove
from assay.tasks.job import Job, prepare_process
from assay.tasks.params import validate
from assay.tasks.status import Status
from assay.tasks.store import Store

PARAMS: dict[str, Any] = {
    "device": "cpu",
    "prepare": ["source/digits"],
    "train": {"model": {"name": "mlp", "hidden": [8]}, "epochs": 2},
    "compress": {},
}
LONG_AGO = 1e9


def key(number: int) -> str:
    """A key as cells have them."""
    return f"{number:032x}"


def put(store: Store, slot: str, number: int, inputs: tuple[tuple[str, int], ...] = ()) -> Path:
    """An artifact that was last used long ago; `inputs` are slots and numbers."""
    _, out = store.begin(key(number))
    (out / "values.npy").write_bytes(bytes(1000))
    named = {f"input{i}": [place, key(n)] for i, (place, n) in enumerate(inputs)}
    folder = store.commit(slot, key(number), {"label": f"{slot} {number}", "inputs": named})
    os.utime(folder / "manifest.json", (LONG_AGO, LONG_AGO))
    return folder


def aged(folder: Path) -> Path:
    """A folder of which nothing was touched for long."""
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (LONG_AGO, LONG_AGO))
    return folder


def swept(store: Store, project: Path, days: float = 1, gigabytes: float = 0) -> set[str]:
    """What `clean` removed, by path in the store."""
    gone = [item for item in removable(store, project, days or None, gigabytes or None) if remove(store, item)]
    return {item.folder.relative_to(store.root).as_posix() for item in gone}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store inside a project."""
    return Store(tmp_path / ".assay" / "store")


# what may go


@pytest.mark.parametrize("limits", [(1.0, 0.0), (0.0, 1e-9)], ids=["by age", "by size"])
def test_what_a_registered_model_needs_stays(store: Store, tmp_path: Path, limits: tuple[float, float]) -> None:
    data = put(store, "prepare/source", 1)
    other = put(store, "prepare/source", 2)
    dense = put(store, "train", 3, (("prepare/source", 1),))
    pruned = put(store, "compress/prune", 4, (("train", 3), ("prepare/source", 1)))
    unregistered = put(store, "compress/prune", 5, (("train", 3),))
    (tmp_path / ".assay" / "registered.json").write_text(json.dumps([key(4), key(99)]))
    assert swept(store, tmp_path, *limits) == {f"prepare/source/{key(2)}", f"compress/prune/{key(5)}"}
    assert all(folder.is_dir() for folder in (data, dense, pruned))
    assert not other.exists()
    assert not unregistered.exists()
    assert not list((store.root / "damaged").glob("*"))
    (tmp_path / ".assay" / "registered.json").unlink()
    assert len(swept(store, tmp_path, *limits)) == 3


@pytest.mark.parametrize("damaged", [3, 4])
def test_nothing_goes_where_it_is_unknown_what_is_needed(store: Store, tmp_path: Path, damaged: int) -> None:
    put(store, "prepare/source", 1)
    put(store, "train", 3, (("prepare/source", 1),))
    put(store, "train", 4, (("train", 3),))
    (tmp_path / ".assay" / "registered.json").write_text(json.dumps([key(4)]))
    (store.folder("train", key(damaged)) / "manifest.json").write_text("{}")
    with pytest.raises(AssayError, match="run the pipeline again"):
        removable(store, tmp_path, 1, None)


def test_folders_that_are_not_the_stores_stay(store: Store, tmp_path: Path) -> None:
    own = put(store, "train", 1)
    sealed = (own / "manifest.json").read_text()
    strangers = ["website", f"slot/{key(7)}", f"copied/{key(1)}", "work/site", "damaged/site", f"damaged/{key(1)}"]
    for name, text in zip(strangers, ['{"name": "site"}', "{}", sealed, "{}", "{}", "{}"], strict=True):
        (store.root / name).mkdir(parents=True)
        (store.root / name / "manifest.json").write_text(text)
        aged(store.root / name)
    (store.root / "manifest.json").write_text(sealed)
    assert [folder for _, _, folder in store.artifacts()] == [own]
    assert swept(store, tmp_path) | swept(store, tmp_path, 0, 1e-9) == {f"train/{key(1)}"}
    assert all((store.root / name / "manifest.json").exists() for name in strangers)


def test_damaged_artifacts_and_left_work_go_by_age_and_count(store: Store, tmp_path: Path) -> None:
    put(store, "train", 1)
    aside = store.set_aside("train", key(1))
    old = aside.rename(aside.with_name(f"{key(1)}-{int(LONG_AGO * 1e9)}"))
    put(store, "train", 2)
    aside = store.set_aside("train", key(2))
    new = aside.rename(aside.with_name(f"{key(2)}-{time.time_ns() - 3600 * 10**9}"))
    for number in (3, 4, 5):
        work, _ = store.begin(key(number))
        (work / "resume.safetensors").write_bytes(bytes(1000))
    aged(store.work(key(3)))
    aged(store.work(key(5)))
    with store.lock(key(5)):  # a cell is at work there
        assert swept(store, tmp_path) == {old.relative_to(store.root).as_posix(), f"work/{key(3)}"}
    assert new.exists()
    assert store.work(key(4)).exists()
    assert swept(store, tmp_path, 0, 2e-6) == {f"work/{key(5)}", new.relative_to(store.root).as_posix()}
    assert swept(store, tmp_path, 0, 1e-9) == {f"work/{key(4)}"}


def test_an_artifact_whose_key_is_held_stays(store: Store, tmp_path: Path) -> None:
    folder = put(store, "train", 1)
    with store.lock(key(1)):
        assert swept(store, tmp_path) == set()
    assert folder.exists()
    assert swept(store, tmp_path) == {f"train/{key(1)}"}


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (tmp_path / "params.yaml").write_text(json.dumps(PARAMS))
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / ".assay" / "store")
    folder = put(store, "train", 1)
    work = aged(store.begin(key(2))[0])
    for arguments, verb in ((["--dry-run"], "would remove"), ([], "removed")):
        assert folder.exists()
        assert work.exists()
        with pytest.raises(SystemExit) as stop:
            cli.main(["clean", "--older-than", "1", *arguments])
        assert not stop.value.code
        assert f"{verb} 1 artifacts and 1 folders of damaged or unfinished ones" in capsys.readouterr().err
    assert not folder.exists()
    assert not work.exists()


@pytest.mark.parametrize(
    "root", ["", " ", ".", "./", "..", "../beside", "a/..", "a/../../beside", "/", "HERE", "UP", "link"]
)
def test_a_store_that_is_no_folder_of_its_own(root: str, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "link").symlink_to(tmp_path)
    named = {"HERE": str(project), "UP": str(tmp_path)}.get(root, root)
    with pytest.raises(BadInput, match=r"store\.root"):
        open_session({**PARAMS, "store": {"root": named}}, project=project)


def test_stores_inside_the_project_and_shared_ones(tmp_path: Path) -> None:
    project = tmp_path / "project"
    for root, place in (("deep/store", project / "deep" / "store"), (str(tmp_path / "shared"), tmp_path / "shared")):
        assert open_session({**PARAMS, "store": {"root": root}}, project=project).store.root == place


def test_forced_artifacts_go_under_their_lock(tmp_path: Path) -> None:
    session = open_session(PARAMS, project=tmp_path)
    cell = next(iter(session.plan.cells.values()))
    session.store.begin(cell.key)
    folder = session.store.commit(cell.slot, cell.key, {"label": cell.label, "inputs": {}})
    status = [Status(cell, False, "--force *")]
    with session.store.lock(cell.key):
        drop_forced(session, status)
        assert folder.exists()
    drop_forced(session, status)
    assert not folder.exists()
    drop_forced(session, status)


# versions of data


@pytest.fixture
def cached(tmp_path: Path) -> tuple[Path, str]:
    """A project with a version of the data set `mine` in DVC's cache only, and its hash."""
    folder = tmp_path / "whole"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.npy").write_bytes(b"first")
    (folder / "deep" / "b.npy").write_bytes(b"second")
    digest = versions.tree_hash(folder)
    cache = tmp_path / ".dvc" / "cache" / "files" / "md5"
    rows = []
    for name in ("a.npy", "deep/b.npy"):
        md5 = versions._md5(folder / name)
        (cache / md5[:2]).mkdir(parents=True, exist_ok=True)
        (folder / name).rename(cache / md5[:2] / md5[2:])
        rows.append({"md5": md5, "relpath": name})
    (cache / digest[:2]).mkdir(parents=True, exist_ok=True)
    (cache / digest[:2] / f"{digest[2:]}.dir").write_text(json.dumps(rows))
    return tmp_path, digest


def test_a_version_is_copied_whole(cached: tuple[Path, str]) -> None:
    project, digest = cached
    versions.copy_version(project, "mine", digest, project / "out")
    assert (project / "out" / "deep" / "b.npy").read_bytes() == b"second"
    assert versions.tree_hash(project / "out") == digest


@pytest.mark.parametrize("fault", ["flipped", "missing", "listing", "path"])
def test_a_damaged_cache_is_not_the_version(cached: tuple[Path, str], fault: str) -> None:
    project, digest = cached
    cache = project / ".dvc" / "cache" / "files" / "md5"
    listing = cache / digest[:2] / f"{digest[2:]}.dir"
    rows = json.loads(listing.read_text())
    file = cache / rows[1]["md5"][:2] / rows[1]["md5"][2:]
    expected = str(file)
    if fault == "flipped":
        file.write_bytes(b"secone")
    elif fault == "missing":
        file.unlink()
    elif fault == "listing":
        listing.write_text(json.dumps(rows[:1]))
        expected = str(listing)
    else:
        (project / "secret").write_text("x")
        expected = "../../../../secret"
        listing.write_text(json.dumps([{"md5": f"..{expected[2:]}", "relpath": "a.npy"}]))
    with pytest.raises(AssayError, match="data set 'mine'") as error:
        versions.copy_version(project, "mine", digest, project / "out")
    assert expected in str(error.value)
    assert fault == "path" or "dvc fetch" in str(error.value)


def test_data_that_changed_unseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "mine").mkdir(parents=True)
    (tmp_path / "data" / "mine" / "a.npy").write_bytes(b"x")
    monkeypatch.setattr(versions, "folder_hash", lambda project, name: "0" * 32)  # a memory by size and time
    with pytest.raises(AssayError, match=r"data/mine .*dvc checkout"):
        versions.copy_version(tmp_path, "mine", "0" * 32, tmp_path / "out")


# training states


STATE: dict[str, Any] = {
    "epoch": 1,
    "weights": {"a": torch.arange(3.0), "b": torch.ones(2, 2, dtype=torch.bfloat16), "none": torch.zeros(0)},
    "rng": (torch.tensor(True), [1.5, None, "text"]),
}


def test_every_flipped_byte_of_a_training_state_is_found(tmp_path: Path) -> None:
    path = tmp_path / "resume.safetensors"
    save_checkpoint(path, STATE)
    assert str(load_checkpoint(path)) == str(STATE)
    whole = path.read_bytes()
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ (1 << i % 8)]) + whole[i + 1 :])
        with pytest.raises(DamagedCheckpoint):
            load_checkpoint(path)


@pytest.mark.parametrize("left", [0, 5, 100, -1])
def test_a_torn_training_state_is_put_aside(tmp_path: Path, left: int) -> None:
    path = tmp_path / "resume.safetensors"
    assert resume_from(path) is None
    save_checkpoint(path, STATE)
    torn = path.read_bytes()[:left]
    path.write_bytes(torn)
    assert resume_from(path) is None
    assert not path.exists()
    assert path.with_suffix(".damaged").read_bytes() == torn


def test_a_training_with_a_damaged_state_starts_anew(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    splits = {
        name: Split({"x": rng.random((20, 1, 8, 8), dtype=np.float32), "y": np.arange(20) % 4})
        for name in ("train", "validation", "test")
    }
    save_data(tmp_path / "data", Data(spec=DataSpec(shape=(1, 8, 8), classes=tuple("abcd")), splits=splits))
    spec = {"recipe": recipe_spec(effective(validate(PARAMS))[0].train), "seed": 0}
    weights = {}
    for name in ("whole", "damaged"):
        work = tmp_path / name
        (work / "artifact").mkdir(parents=True)
        job = Job(spec, {"data": tmp_path / "data"}, work / "artifact", work)
        prepare_process(0, 1)
        training.train(job)
        if name == "damaged":
            resume = work / "resume.safetensors"
            content = bytearray(resume.read_bytes())
            content[-20] ^= 1
            resume.write_bytes(content)
            prepare_process(0, 1)
            training.train(job)
            assert resume.with_suffix(".damaged").exists()
        weights[name] = (work / "artifact" / "model.safetensors").read_bytes()
    assert weights["whole"] == weights["damaged"]
