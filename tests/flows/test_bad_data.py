"""Faults of the data end in `prepare`: one message that names the thing, exit code 2, nothing half written."""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from assay.flows import cli

Arrays = dict[str, Any]


@pytest.fixture
def quiet(project: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The small project, with nobody to send to and no network behind its sources."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    project.tree["workers"] = 1
    return project


def refused(project: Any, capsys: Any, *arguments: str, code: int = 2) -> str:
    """The message of a command that must fail; nothing may be left of what it began."""
    before = kept(project.folder)
    with pytest.raises(SystemExit) as stop:
        cli.main([*(arguments or ("run", "--no-server"))])
    said: str = capsys.readouterr().err
    assert stop.value.code == code, said
    assert "Traceback" not in said
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert errors
    assert len(errors) == len(set(errors)), said
    assert kept(project.folder) == before
    return said


def after_the_source(project: Any, capsys: Any) -> str:
    """The message of a run that must end once its sources are there; no artifact is left but of `prepare`."""
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", "--no-server"])
    said: str = capsys.readouterr().err
    assert stop.value.code == 2, said
    assert "Traceback" not in said
    store = project.folder / ".assay" / "store"
    assert {path.parent.parent.name for path in store.rglob("manifest.json")} <= {"source", "transform"}
    assert not list((store / "work").glob("*"))
    return said


def kept(folder: Path) -> set[str]:
    """Data, artifacts and work under way; not the locks and memories beside them."""
    places = (folder / "data", folder / ".assay" / "store", folder / ".assay" / "downloads", folder / "reports")
    found = {str(p.relative_to(folder)) for place in places for p in place.rglob("*") if p.is_file()}
    return {name for name in found if "/locks/" not in name}


def good() -> Arrays:
    """Two splits of three classes of 6 x 6 images."""
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.random((60, 6, 6)),
        "y_train": np.arange(60) % 3,
        "x_test": rng.random((30, 6, 6)),
        "y_test": np.arange(30) % 3,
    }


def changed(name: str, change: Callable[[np.ndarray], Any]) -> Arrays:
    """Good arrays, one of them changed."""
    arrays = good()
    arrays[name] = change(arrays[name].copy())
    return arrays


def put(at: Any, value: Any) -> Callable[[np.ndarray], np.ndarray]:
    """A change that puts a value somewhere."""

    def change(array: np.ndarray) -> np.ndarray:
        array[at] = value
        return array

    return change


ARRAYS: dict[str, tuple[Arrays, list[str]]] = {
    "NaN pixels": (changed("x_train", put((7, 2, 2), np.nan)), ["x_train", "NaN", "example 7"]),
    "infinite pixels": (changed("x_test", put((3, 0, 0), np.inf)), ["x_test", "infinity", "example 3"]),
    "pixels out of range": (changed("x_train", put((4, 0, 0), 3.5)), ["x_train", "0..1", "example 4"]),
    "mixed sizes": (changed("x_test", lambda x: x[:, :5]), ["x_train and x_test do not fit", "6, 6", "5, 6"]),
    "different lengths": (changed("y_train", lambda y: y[:-1]), ["y_train", "60", "59"]),
    "negative label": (changed("y_train", put(5, -1)), ["y_train", "-1", "example 5"]),
    "label between classes": (changed("y_train", lambda y: y + 0.5), ["y_train", "0.5", "whole number"]),
    "label far out": (changed("y_train", put(9, 10**9)), ["1000000000", "example 9", "out of range"]),
    "label of the test split": (changed("y_test", put(2, 3)), ["split 'test'", "label 3", "example 2", "0..2"]),
    "empty class": (changed("y_train", lambda y: np.where(y == 1, 0, y)), ["without any training example: 1"]),
    "one class": (changed("y_train", lambda y: y * 0) | {"y_test": np.zeros(30, int)}, ["two classes"]),
    "one class in training": (changed("y_train", lambda y: y * 0 + 2), ["one class only"]),
    "no labels": ({k: v for k, v in good().items() if k != "y_train"}, ["y_train is missing"]),
    "no test split": ({k: v for k, v in good().items() if "test" not in k}, ["test"]),
    "empty": (changed("x_test", lambda x: x[:0]) | {"y_test": np.zeros(0, int)}, ["x_test has no examples"]),
    "words": (changed("x_train", lambda x: x.astype(str)), ["x_train", "numbers"]),
    "objects": (changed("x_train", lambda x: np.array([None] * len(x), dtype=object)), ["a.npz", "cannot be read"]),
}


@pytest.mark.parametrize(("arrays", "words"), ARRAYS.values(), ids=ARRAYS.keys())
def test_arrays(quiet: Any, capsys: Any, arrays: Arrays, words: list[str]) -> None:
    np.savez(quiet.folder / "a.npz", **arrays)
    quiet.tree["prepare"] = [{"name": "source/arrays", "path": "a.npz", "dataset": "mine"}]
    quiet.write()
    said = refused(quiet, capsys)
    assert "data set 'mine'" in said
    for word in words:
        assert word in said


def test_arrays_with_names_for_fewer_classes(quiet: Any, capsys: Any) -> None:
    np.savez(quiet.folder / "a.npz", **good())
    quiet.tree["prepare"] = [{"name": "source/arrays", "path": "a.npz", "classes": ["cat", "dog"]}]
    quiet.write()
    said = refused(quiet, capsys)
    assert "label 2 of example 2 is out of range: there are 2 classes" in said


def image(path: Path, size: tuple[int, int] = (8, 8), value: int = 100) -> None:
    """Writes a small image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value // 2, 10)).save(path)


@pytest.fixture
def photos(quiet: Any) -> Path:
    """A folder of images of two classes, as the project's source."""
    for name in ("cat", "dog"):
        for i in range(4):
            image(quiet.folder / "photos" / name / f"{i}.png", value=20 * i)
    quiet.tree["prepare"] = [{"name": "source/image_folder", "path": "photos"}]
    quiet.write()
    return quiet.folder / "photos"


def test_images_of_mixed_sizes(quiet: Any, capsys: Any, photos: Path) -> None:
    image(photos / "dog" / "9.png", (8, 9))
    said = refused(quiet, capsys)
    for word in ("mixed sizes", "dog/9.png", "8 x 9", "size"):
        assert word in said


def test_unreadable_images_are_all_named(quiet: Any, capsys: Any, photos: Path) -> None:
    (photos / "cat" / "words.png").write_text("no image", encoding="utf-8")
    content = (photos / "dog" / "1.png").read_bytes()
    (photos / "dog" / "half.png").write_bytes(content[: len(content) // 2])
    (photos / "dog" / "empty.jpg").write_bytes(b"")
    said = refused(quiet, capsys)
    assert "3 image files cannot be read" in said
    for word in ("cat/words.png", "dog/half.png", "dog/empty.jpg"):
        assert word in said


def test_empty_class_folder(quiet: Any, capsys: Any, photos: Path) -> None:
    (photos / "bird").mkdir()
    said = refused(quiet, capsys)
    assert "empty class folders in 'photos': bird" in said


def test_one_class_folder(quiet: Any, capsys: Any, photos: Path) -> None:
    for path in (photos / "dog").iterdir():
        path.unlink()
    (photos / "dog").rmdir()
    said = refused(quiet, capsys)
    assert "at least two classes, the data have 1" in said
    assert "cat" in said


def test_missing_path(quiet: Any, capsys: Any) -> None:
    for source in ("arrays", "image_folder", "mnist", "fashion_mnist"):
        quiet.tree["prepare"] = [{"name": f"source/{source}", "path": "nowhere/at/all"}]
        quiet.write()
        said = refused(quiet, capsys)
        assert "there is nothing at 'nowhere/at/all'" in said
        assert source in said


def test_path_never_given(quiet: Any, capsys: Any) -> None:
    quiet.tree["prepare"] = [{"name": "source/arrays", "dataset": "mine"}]
    quiet.write()
    said = refused(quiet, capsys)
    assert "data set 'mine' was never added: give `path`, or run `assay data add`" in said


def idx(array: np.ndarray) -> bytes:
    """A gzipped IDX file."""
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", mtime=0) as file:
        file.write(bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes())
    return out.getvalue()


def write_idx(folder: Path) -> None:
    """Well-formed files that are not MNIST."""
    folder.mkdir(parents=True)
    for name, n in (("train", 60), ("t10k", 10)):
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(idx(np.zeros((n, 28, 28), np.uint8)))
        (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(idx(np.zeros(n, np.uint8)))


@pytest.mark.parametrize("source", ["mnist", "fashion_mnist"])
def test_wrong_sha256(quiet: Any, capsys: Any, source: str) -> None:
    """Of files that the user gave."""
    write_idx(quiet.folder / "given")
    quiet.tree["prepare"] = [{"name": f"source/{source}", "path": "given"}]
    quiet.write()
    said = refused(quiet, capsys)
    for word in ("given", "train images have sha256", "expected"):
        assert word in said


@pytest.mark.parametrize("source", ["mnist", "fashion_mnist"])
def test_damaged_download_and_no_network(quiet: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """Nobody's fault: exit code 1, with what to do."""
    from assay.plugins.prepare.source import _common

    def nobody(*_: Any, **__: Any) -> Any:
        raise _common.Unavailable("no network")

    monkeypatch.setattr(_common, "download", nobody)
    for module in ("mnist", "fashion_mnist"):
        monkeypatch.setattr(f"assay.plugins.prepare.source.{module}.run_tool", nobody)
    write_idx(quiet.folder / ".assay" / "downloads")
    quiet.tree["prepare"] = [f"source/{source}"]
    quiet.write()
    said = refused(quiet, capsys, code=1)
    for word in ("no mirror of", "answers", "no network", "`path`"):
        assert word in said


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([{"name": "transform/subset", "train": 9}], ["after subset", "without any training example"]),
        ([{"name": "transform/subset", "train": 1}], ["after subset", "one class only"]),
    ],
)
def test_a_transform_that_leaves_too_little(quiet: Any, capsys: Any, steps: list[Any], words: list[str]) -> None:
    """The source is well and stays; nothing is trained."""
    quiet.tree["prepare"] = ["source/digits", *steps]
    quiet.write()
    said = after_the_source(quiet, capsys)
    for word in words:
        assert word in said


def cli_ok(project: Any, *arguments: str) -> bool:
    """Whether a command succeeds."""
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    return stop.value.code == 0


def test_a_further_data_set_is_checked_before_training(quiet: Any, capsys: Any) -> None:
    """Also where its fault shows in a transform, which the main data do not wait for."""
    np.savez(quiet.folder / "a.npz", x=np.random.default_rng(0).random((40, 5)), y=np.arange(40) % 2)
    quiet.tree["datasets"] = {
        "other": [{"name": "source/arrays", "path": "a.npz", "dataset": "mine"}, "transform/blockmnist"]
    }
    quiet.tree["evaluate"] = [{"name": "ood/msp", "ood": "other"}]
    quiet.write()
    said = after_the_source(quiet, capsys)
    assert "datasets.other 1 transform/blockmnist" in said
    assert "takes image; the data set's inputs are features" in said


@pytest.fixture
def added(quiet: Any) -> Path:
    """The project with data/mine, well and tracked."""
    np.savez(quiet.folder / "a.npz", **good())
    assert cli_ok(quiet, "data", "add", "mine", "a.npz")
    quiet.tree["prepare"] = [{"name": "source/arrays", "dataset": "mine"}]
    quiet.write()
    return quiet.folder / "data" / "mine"


def objects(folder: Path) -> None:
    np.save(folder / "train.x.npy", np.array([{"a": os.system}], dtype=object), allow_pickle=True)


def no_json(folder: Path) -> None:
    (folder / "dataset.json").write_text("{", encoding="utf-8")


def no_spec(folder: Path) -> None:
    (folder / "dataset.json").write_text(json.dumps({"format": 1}), encoding="utf-8")


def no_array(folder: Path) -> None:
    (folder / "train.y.npy").unlink()


def no_description(folder: Path) -> None:
    (folder / "dataset.json").unlink()


def cut_short(folder: Path) -> None:
    path = folder / "train.x.npy"
    path.write_bytes(path.read_bytes()[:200])


def wrong_labels(folder: Path) -> None:
    np.save(folder / "train.y.npy", np.full(60, 77))


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (objects, "no data set"),
        (no_json, "no data set"),
        (no_spec, "no data set"),
        (no_array, "train.y.npy"),
        (no_description, "dataset.json"),
        (cut_short, "no data set"),
        (wrong_labels, "label 77"),
    ],
)
def test_a_changed_folder_is_checked_before_it_is_added(
    quiet: Any, capsys: Any, added: Path, damage: Callable[[Path], None], word: str
) -> None:
    damage(added)
    dvc = added.with_suffix(".dvc").read_bytes()
    capsys.readouterr()
    said = refused(quiet, capsys, "data", "add", "mine")
    assert "mine" in said
    assert word in said
    said = refused(quiet, capsys, "run", "--no-server")
    assert "data/mine was changed since it was added" in said
    assert added.with_suffix(".dvc").read_bytes() == dvc
    with pytest.raises(SystemExit) as stop:
        cli.main(["data", "list", "--json"])
    assert stop.value.code == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "mine"
    assert not cli_ok(quiet, "data", "status")


def test_a_bad_new_version_leaves_the_old_one(quiet: Any, capsys: Any, added: Path) -> None:
    before = {path.name: path.read_bytes() for path in added.iterdir() if path.is_file()}
    np.savez(quiet.folder / "a.npz", **changed("x_train", put((0, 0, 0), np.nan)))
    capsys.readouterr()
    said = refused(quiet, capsys, "data", "add", "mine", "a.npz")
    assert "NaN" in said
    assert {path.name: path.read_bytes() for path in added.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["../x", "a.npz"], "no data set name"),
        (["mine"], "data/mine is not there"),
        (["mine", "gone.npz"], "gone.npz"),
        (["mine", "source/arays"], "source/arrays"),
        (["mine", "source/digits", "--set", "test_fraction=2"], "test_fraction"),
        (["mine", "source/digits", "--set", "test_fraction"], "field=value"),
    ],
)
def test_data_add(quiet: Any, capsys: Any, arguments: list[str], word: str) -> None:
    assert word in refused(quiet, capsys, "data", "add", *arguments)


def test_a_model_that_does_not_fit_the_data(quiet: Any, capsys: Any) -> None:
    """The architecture is not built before the data are known, and then ends the run at once."""
    np.savez(quiet.folder / "a.npz", x=np.random.default_rng(0).random((40, 5)), y=np.arange(40) % 2)
    quiet.tree["prepare"] = [{"name": "source/arrays", "path": "a.npz", "dataset": "mine"}]
    quiet.tree["train"]["model"] = "small_cnn"
    quiet.write()
    assert "small_cnn" in after_the_source(quiet, capsys)
