"""Data sets of the library datasets: what a folder holds is what comes out, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from assay.plugins import registry
from assay.plugins.contract import AssayError, BadData, BadInput, Context, Data, DataSpec

datasets = pytest.importorskip("datasets", reason="the extra huggingface is not installed")

from assay.plugins.prepare.source.huggingface import image_files  # noqa: E402

NAMES = ["cat", "dog", "elk"]


def pixels(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 6, 3)).astype(np.uint8)


def table(x: np.ndarray, y: list[Any], label: Any = None) -> Any:
    """Images and labels as a data set of the library."""
    kinds = datasets.Features({"image": datasets.Image(), "label": label or datasets.ClassLabel(names=NAMES)})
    return datasets.Dataset.from_dict({"image": [Image.fromarray(a) for a in x], "label": y}, features=kinds)


def load(folder: Path, **fields: Any) -> Data:
    method = registry.make("prepare/source", {"name": "huggingface", "path": str(folder), **fields})
    ctx = Context(rng=torch.Generator(), spec=DataSpec(shape=()), folder=folder.parent / "downloads")
    found: Data = method.load(ctx)
    registry.make("problems", method.becomes()).check(found)
    return found


@pytest.mark.parametrize("kind", ["disk", "parquet"])
def test_images_labels_and_class_names_come_out(tmp_path: Path, kind: str) -> None:
    train, test, y = pixels(9), pixels(6, 1), [2, 0, 1] * 3
    both = datasets.DatasetDict(train=table(train, y), test=table(test, y[:6]))
    if kind == "disk":
        both.save_to_disk(tmp_path / "set")
    else:
        (tmp_path / "set" / "data").mkdir(parents=True)
        for name, part in both.items():
            part.to_parquet(tmp_path / "set" / "data" / f"{name}-00000-of-00001.parquet")
    data = load(tmp_path / "set")
    assert data.spec == DataSpec(shape=(3, 8, 6), classes=tuple(NAMES))
    np.testing.assert_array_equal(data.train.fields["x"], train.transpose(0, 3, 1, 2))  # PNG loses nothing
    np.testing.assert_array_equal(data.test.fields["x"], test.transpose(0, 3, 1, 2))
    assert data.train.fields["y"].tolist() == y
    assert not (tmp_path / "downloads").exists()
    small = load(tmp_path / "set", size=4, grayscale=True)
    expected = Image.fromarray(train[0]).convert("L").resize((4, 4), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(small.train.fields["x"][0, 0], np.asarray(expected))


def test_without_a_test_split_a_share_of_each_class_is_held_out(tmp_path: Path) -> None:
    table(pixels(30), [0, 1, 2] * 10).save_to_disk(tmp_path / "set")
    data = load(tmp_path / "set", test_fraction=0.3)
    assert np.bincount(data.test.fields["y"]).tolist() == [3, 3, 3]
    assert np.bincount(data.train.fields["y"]).tolist() == [7, 7, 7]


def test_a_validation_split_is_kept_or_the_test_split(tmp_path: Path) -> None:
    unlabelled = table(pixels(3), [-1] * 3)
    parts = {"train": table(pixels(6), [0, 1, 2] * 2), "validation": table(pixels(3), [0, 1, 2]), "test": unlabelled}
    datasets.DatasetDict(**parts).save_to_disk(tmp_path / "set")
    with pytest.raises(BadData, match=r"split 'test', example 0: column 'label' holds -1.*`test: validation`"):
        load(tmp_path / "set")
    assert set(load(tmp_path / "set", test="validation").splits) == {"train", "test"}
    held = load(tmp_path / "set", test="")
    assert {name: len(split) for name, split in held.splits.items()} == {"train": 3, "validation": 3, "test": 3}


@pytest.mark.parametrize(
    ("kind", "values", "names"),
    [
        ("string", ["b", "a", "b", "c"], ("a", "b", "c")),
        ("int64", [7, 3, 7, 3], ("3", "7")),
        ("bool", [True, False] * 2, ("False", "True")),
    ],
)
def test_plain_columns_of_classes(tmp_path: Path, kind: str, values: list[Any], names: tuple[str, ...]) -> None:
    part = table(pixels(4), values, datasets.Value(kind))
    datasets.DatasetDict(train=part, test=part).save_to_disk(tmp_path / "set")
    data = load(tmp_path / "set")
    assert data.spec.classes == names
    assert [names[i] for i in data.train.fields["y"]] == [str(value) for value in values]


def test_columns_of_numbers(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.csv").write_text("a,b,kind\n1,2.5,x\n3,4,y\n5,6,x\n7,8,y\n", encoding="utf-8")
    data = load(tmp_path / "set", features=["b", "a"], label="kind", test_fraction=0.5)
    whole = np.concatenate([data.train.fields["x"], data.test.fields["x"]])
    assert sorted(map(tuple, whole.tolist())) == [(2.5, 1.0), (4.0, 3.0), (6.0, 5.0), (8.0, 7.0)]
    assert data.spec.classes == ("x", "y")
    assert data.spec.modality == "features"
    assert data.spec.low == tuple(data.train.fields["x"].min(0))
    with pytest.raises(BadData, match="column 'kind' does not hold numbers"):
        load(tmp_path / "set", features=["kind"], label="kind")
    with pytest.raises(BadData, match="no column 'c'; it has a, b, kind"):
        load(tmp_path / "set", features=["c"], label="kind")


def test_tokens_and_their_next_ones(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 9, (10, 5))
    rows[0, 0] = 9
    part = datasets.Dataset.from_dict({"input_ids": rows.tolist(), "label": [0, 1] * 5})
    datasets.DatasetDict(train=part, test=part).save_to_disk(tmp_path / "set")
    data = load(tmp_path / "set", tokens="input_ids", problem="sequence")
    np.testing.assert_array_equal(data.train.fields["x"], rows[:, :-1])
    np.testing.assert_array_equal(data.train.fields["y"], rows[:, 1:])
    assert (data.spec.shape, data.spec.high, len(data.spec.classes)) == ((4,), (9.0,), 10)
    labelled = load(tmp_path / "set", tokens="input_ids", vocabulary=20)
    assert (labelled.spec.shape, labelled.spec.high, labelled.spec.classes) == ((5,), (19.0,), ("0", "1"))
    with pytest.raises(BadData, match="holds token 9, and `vocabulary` is 5"):
        load(tmp_path / "set", tokens="input_ids", problem="sequence", vocabulary=5)
    datasets.Dataset.from_dict({"input_ids": [[1, 2], [3]], "label": [0, 1]}).save_to_disk(tmp_path / "ragged")
    with pytest.raises(BadData, match="between 1 and 2 tokens"):
        load(tmp_path / "ragged", tokens="input_ids")


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    table(pixels(6), [0, 1, 2] * 2).save_to_disk(tmp_path / "set")
    with pytest.raises(BadData, match="no split 'learn' to learn; it has train"):
        load(tmp_path / "set", train="learn")
    with pytest.raises(BadData, match="no split 'exam' to judge by"):
        load(tmp_path / "set", test="exam")
    with pytest.raises(BadData, match="no column 'kind'; it has image, label"):
        load(tmp_path / "set", label="kind")
    with pytest.raises(BadData, match=r"'label' is no column of images; it has image \(Image\), label \(ClassLabel\)"):
        load(tmp_path / "set", image="label")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadData, match="cannot be read by the library datasets"):
        load(tmp_path / "empty")
    (tmp_path / "file.parquet").touch()
    with pytest.raises(BadData, match="give the folder that holds it"):
        load(tmp_path / "file.parquet")
    with pytest.raises(BadData, match="as `revision` the commit, tag or branch"):
        load(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="never added"):
        registry.make("prepare/source", "huggingface").load(None)
    with pytest.raises(ValueError, match="needs `tokens`"):
        registry.make("prepare/source", {"name": "huggingface", "problem": "sequence"})
    with pytest.raises(ValueError, match="image and tokens are given"):
        registry.make("prepare/source", {"name": "huggingface", "image": "a", "tokens": "b"})


def test_damaged_and_missing_images_are_named(tmp_path: Path) -> None:
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    bad = {"image": [{"bytes": b"no image", "path": "a.png"}] * 2, "label": [0, 1]}
    datasets.Dataset.from_dict(bad, features=kinds).save_to_disk(tmp_path / "set")
    with pytest.raises(BadData, match=r"2 image files cannot be read:\n  example 0 \(a.png\)"):
        load(tmp_path / "set")
    gone = {"image": [{"bytes": None, "path": "/nowhere/b.png"}] * 2, "label": [0, 1]}
    with pytest.raises(BadData, match="neither stored nor a file on this machine"):
        image_files(datasets.Dataset.from_dict(gone, features=kinds), "image")


def test_code_beside_the_data_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n", encoding="utf-8")
    with pytest.raises(BadData):
        load(tmp_path / "evil")
    assert not (tmp_path / "ran").exists()


def test_other_readers_of_the_library_are_refused(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.txt").write_text("some\ntext\n", encoding="utf-8")
    with pytest.raises(BadData, match="is stored as Text: Parquet, Arrow, CSV, JSON or image files are read"):
        load(tmp_path / "set")


def test_without_the_hub_the_message_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    method = registry.make("prepare/source", {"name": "huggingface", "path": "someone/set", "revision": "main"})
    ctx = Context(rng=torch.Generator(), spec=DataSpec(shape=()), folder=tmp_path)
    with pytest.raises(AssayError) as error:
        method.load(ctx)
    for word in ["'someone/set' is no folder here", "connect to the network", ".save_to_disk('FOLDER')", "as `path`"]:
        assert word in str(error.value)
