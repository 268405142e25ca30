"""What is deployed is what was measured: predict, export and the JSON beside it, for another program to use."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import assay as package
from assay.flows import cli
from assay.flows.session import Session, open_session
from assay.plugins.contract import BadData, BadInput, Batch, DataSpec
from assay.tasks import serve, subject
from assay.tasks.artifacts import ModelCard, Step, load_card, load_data, load_model, rebuild, save_model
from assay.tasks.export import export_onnx

PARAMS: dict[str, Any] = {
    "seed": 0,
    "device": "cpu",
    "workers": 1,
    "prepare": ["source/digits", {"name": "transform/subset", "train": 300, "test": 100}, "transform/normalize"],
    "train": {"model": {"name": "small_cnn", "width": 8}, "optimizer": {"name": "adamw", "lr": 0.01}, "epochs": 2},
    "compress": {"int8": ["quantize/int8_static"]},
    "evaluate": ["accuracy/top1", "calibration/ece"],
}
PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
PROGRAM = next(
    text
    for text in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    if "classify.py" in text
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose run has ended."""
    folder = tmp_path_factory.mktemp("deploy") / "project"
    folder.mkdir()
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS, sort_keys=False), encoding="utf-8")
    package.run(folder / "params.yaml", prefect=False, track=False)
    return folder


@pytest.fixture
def run(project: Path) -> Session:
    return open_session(project / "params.yaml")


def model(run: Session, name: str) -> Path:
    """A model's artifact."""
    ref = run.plan.models[name]
    return run.store.folder(ref.slot, ref.key)


def measured(run: Session, name: str) -> Path:
    """The file on which a model was measured."""
    ref = run.plan.exported[name]
    return run.store.folder(ref.slot, ref.key) / "model.onnx"


@pytest.fixture
def say(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    """A command in the project: what it printed to standard output and to standard error."""
    monkeypatch.chdir(project)

    def call(*arguments: str, code: int = 0) -> tuple[str, str]:
        with pytest.raises(SystemExit) as stop:
            cli.main(list(arguments))
        out, err = capsys.readouterr()
        assert stop.value.code == code, out + err
        return out, err

    return call


@pytest.fixture
def photos(project: Path, tmp_path: Path) -> list[str]:
    """Images: three digits of the test split, one in colour and lying, one that is large, one transparent."""
    pixels = load_data(project / "data" / "digits").test.fields["x"][:3, 0]
    images = [Image.fromarray(np.array(digit)) for digit in pixels]
    noise = np.random.default_rng(0).integers(0, 256, (17, 31, 4), dtype=np.uint8)
    lying = images[0].resize((24, 16)).convert("RGB")
    exif = lying.getexif()
    exif[0x0112] = 6  # upright once it is turned by a quarter
    images += [lying, Image.fromarray(noise[..., :3]), Image.fromarray(noise)]
    files = []
    for i, image in enumerate(images):
        files.append(str(tmp_path / f"photo{i}.png"))
        image.save(files[-1], exif=exif if image is lying else None)
    return files


# one inference


def test_predict_is_the_evaluated_inference(run: Session, project: Path, tmp_path: Path) -> None:
    """To the bit: on the test split's own files, predict's labels are right as often as the run measured."""
    raw = load_data(project / "data" / "digits").test.fields["x"]
    data = run.plan.data["main"]
    seen = load_data(run.store.folder(data.slot, data.key))
    kept = seen.test.fields["x"]
    spec = seen.spec
    pixels = np.round((kept - spec.low[0]) / (spec.high[0] - spec.low[0]) * 255).astype(np.uint8)[:, 0]
    assert {p.tobytes() for p in pixels} <= {p.tobytes() for p in np.array(raw[:, 0])}
    files = [tmp_path / f"{i:03d}.png" for i in range(len(pixels))]
    for file, image in zip(files, pixels, strict=True):
        Image.fromarray(image).save(file)
    for name in ("dense", "int8"):
        folder = model(run, name)
        exported = measured(run, name) if name == "int8" else None
        rows, batch = serve.predict_images(folder, files, "cpu", exported)
        inputs = {"model": folder, "dense": model(run, "dense"), "data": run.store.folder(data.slot, data.key)}
        if exported is not None:
            inputs["exported"] = exported.parent
        evaluated = subject.make_subject(inputs, torch.device("cpu")).predict(batch)
        expected = torch.softmax(evaluated, dim=1).numpy()
        found = np.array([list(row["probabilities"].values()) for row in rows], dtype=np.float32)
        np.testing.assert_array_equal(found, expected)
        ref = run.plan.evaluation[name, "accuracy/top1"]
        each = np.load(run.store.folder(ref.slot, ref.key) / "each.top1.npy")
        right = [int(row["label"]) == y for row, y in zip(rows, seen.test.fields["y"], strict=True)]
        np.testing.assert_array_equal(right, each.astype(bool))


def test_an_int8_model_answers_with_its_kernels_not_its_twin(run: Session) -> None:
    folder = model(run, "int8")
    x = torch.randn(300, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    batch = Batch({"x": x})
    card, twin = load_card(folder), load_model(folder)
    kept = subject.deployed(card, lambda: twin, measured(run, "int8"))(batch)
    fresh = subject.deployed(card, lambda: twin)(batch)
    assert torch.equal(kept, fresh)  # a file made on the spot is the one that was measured
    with torch.inference_mode():
        difference = (kept - twin(x)).abs().max()
    assert 0 < float(difference) < 0.1 * float(kept.abs().max())

    def never() -> Any:
        raise AssertionError("the twin is not needed where the file is there")

    assert torch.equal(subject.deployed(card, never, measured(run, "int8"))(batch), kept)
    dense = load_card(model(run, "dense"))
    loaded = load_model(model(run, "dense"))
    with torch.inference_mode():
        assert torch.equal(subject.deployed(dense, lambda: loaded)(batch.take(slice(9))), loaded(x[:9]))


def test_export_writes_the_file_that_was_measured(run: Session, say: Any, tmp_path: Path) -> None:
    say("export", "int8", str(tmp_path / "a.onnx"))
    assert (tmp_path / "a.onnx").read_bytes() == measured(run, "int8").read_bytes()
    assert "dense" not in run.plan.exported  # nothing was measured on a file of it: one is made
    say("export", "dense", str(tmp_path / "b.onnx"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.onnx", "b.json", "b.onnx"]


def test_damage_is_noticed(project: Path, say: Any, photos: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    shutil.copytree(project, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    run = open_session("params.yaml")
    before = say("predict", "int8", photos[0], "--json")[0]
    measured(run, "int8").write_bytes(b"damaged")
    assert say("predict", "int8", photos[0], "--json")[0] == before
    weights = model(run, "int8") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    assert "damaged (model.safetensors): `assay run`" in say("predict", "int8", photos[0], code=1)[1]
    assert "damaged" in say("export", "int8", str(tmp_path / "a.onnx"), code=1)[1]


# another program


def classify(onnx: Path, photo: str) -> dict[str, float]:
    """What the program of the page answers; it runs without Assay and PyTorch."""
    file = onnx.parent / "classify.py"
    guard = "import sys\nfor name in ('assay', 'torch'):\n    sys.modules[name] = None\n"
    file.write_text(guard + PROGRAM, encoding="utf-8")
    done = subprocess.run([sys.executable, file, onnx, photo], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", ["dense", "int8"])
def test_another_program_gives_the_same_probabilities(say: Any, photos: list[str], tmp_path: Path, name: str) -> None:
    say("export", name, str(tmp_path / "model.onnx"))
    rows = json.loads(say("predict", name, *photos, "--json")[0])
    for row in rows:
        found = classify(tmp_path / "model.onnx", row["image"])
        assert list(found) == list(row["probabilities"])
        np.testing.assert_allclose(list(found.values()), list(row["probabilities"].values()), atol=1e-6)


def test_the_description(run: Session, say: Any, tmp_path: Path) -> None:
    say("export", "int8", str(tmp_path / "model.onnx"))
    card = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
    assert (card["model"], card["key"]) == ("int8", run.plan.models["int8"].key)
    assert card["classes"] == list("0123456789")
    assert card["input"]["image"] == {"mode": "L", "width": 8, "height": 8, "resize": "bilinear", "divide_by": 255}
    assert (card["input"]["name"], card["input"]["shape"]) == ("x", ["batch", 1, 8, 8])
    assert "logits" in card["output"]["what"]
    assert card["output"]["probabilities"].startswith("softmax")
    (step,) = card["preprocessing"]
    assert "mean" in step["does"]
    assert set(step["record"]) == {"mean", "deviation"}


def artifact(folder: Path, spec: DataSpec, model: str, **params: Any) -> Path:
    """A model artifact with random weights."""
    card = ModelCard(spec, Step(f"train/model/{model}", params))
    save_model(folder, card, rebuild(card).state_dict())
    return folder


def test_colour_images(photos: list[str], tmp_path: Path) -> None:
    spec = DataSpec(shape=(3, 12, 20), classes=("cat", "dog"))
    folder = artifact(tmp_path / "colour", spec, "small_cnn", width=8)
    export_onnx(load_model(folder), spec, tmp_path / "model.onnx")
    (tmp_path / "model.json").write_text(json.dumps(serve.describe(folder, "colour")), encoding="utf-8")
    rows, batch = serve.predict_images(folder, [Path(photo) for photo in photos], "cpu")
    assert batch.x.shape == (6, 3, 12, 20)
    assert not torch.equal(batch.x[4, 0], batch.x[4, 2])
    for row in rows:
        found = classify(tmp_path / "model.onnx", row["image"])
        np.testing.assert_allclose(list(found.values()), list(row["probabilities"].values()), atol=1e-6)


def test_a_model_that_takes_no_image_files_says_what_it_takes(tmp_path: Path) -> None:
    features = DataSpec(modality="features", shape=(7,), classes=("a", "b"), low=(-3.0,), high=(9.0,))
    folder = artifact(tmp_path / "features", features, "mlp", hidden=[4])
    with pytest.raises(BadInput, match=r"feature vectors of 7 numbers.*not image files: give them as one .npy file"):
        serve.predict_images(folder, [tmp_path / "gone.png"], "cpu")
    card = serve.describe(folder, "features")
    assert "image" not in card["input"]
    assert "feature vectors of 7 numbers" in card["input"]["what"]
    assert card["input"]["shape"] == ["batch", 7]
    assert card["classes"] == ["a", "b"]
    two_channels = artifact(tmp_path / "two", DataSpec(shape=(2, 8, 8), classes=("a", "b")), "small_cnn", width=8)
    with pytest.raises(BadInput, match="2 x 8 x 8"):
        serve.predict_images(two_channels, [tmp_path / "gone.png"], "cpu")
    other = DataSpec(problem="regression", shape=(1, 8, 8), outputs=2)
    with pytest.raises(BadInput, match="its problem is regression"):
        serve.predict_images(artifact(tmp_path / "other", other, "small_cnn", width=8), [], "cpu")


def test_an_array_of_any_problem_has_predictions(tmp_path: Path) -> None:
    spec = DataSpec(problem="regression", modality="features", shape=(7,), outputs=2)
    folder = artifact(tmp_path / "features", spec, "mlp", hidden=[4])
    x = np.random.default_rng(0).normal(size=(5, 7))
    np.save(tmp_path / "new.npy", x)
    found = serve.predict_array(folder, tmp_path / "new.npy", "cpu")
    with torch.no_grad():
        np.testing.assert_array_equal(found, load_model(folder)(torch.tensor(x, dtype=torch.float32)).numpy())


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((5, 6)), r"float64 \[5, 6\]; it takes one array of N x 7 numbers"),
        (np.full((2, 7), np.nan), "NaN"),
        (np.zeros((0, 7)), r"\[0, 7\]"),
        (np.array(["a"]), r"<U1 \[1\]; it takes one array"),
        (np.array([{}]), "not readable as an array"),
    ],
)
def test_an_array_that_is_none_of_the_models_is_refused(array: np.ndarray, said: str, tmp_path: Path) -> None:
    spec = DataSpec(problem="regression", modality="features", shape=(7,), outputs=2)
    np.save(tmp_path / "new.npy", array, allow_pickle=True)
    with pytest.raises(BadData, match=said):
        serve.predict_array(artifact(tmp_path / "features", spec, "mlp", hidden=[4]), tmp_path / "new.npy", "cpu")


def test_predict_writes_what_it_says_of_an_array(run: Session, say: Any, project: Path, tmp_path: Path) -> None:
    raw = np.array(load_data(project / "data" / "digits").test.fields["x"][:6])
    np.save(tmp_path / "new.npy", raw)
    out, _ = say("predict", "int8", str(tmp_path / "new.npy"), "--out", str(tmp_path / "out"), "--json")
    told = json.loads(out)
    logits = np.load(told["file"])
    assert told["shape"] == list(logits.shape) == [6, 10]
    expected = serve.predict_array(model(run, "int8"), tmp_path / "new.npy", "cpu", measured(run, "int8"))
    np.testing.assert_array_equal(logits, expected)


# sizes


def test_resizing_is_said(say: Any, photos: list[str]) -> None:
    out, err = say("predict", "dense", *photos, "--json")
    rows = json.loads(out)
    assert [row["resized"] for row in rows] == [False, False, False, True, True, True]
    assert [tuple(row["size"]) for row in rows[2:]] == [(8, 8), (16, 24), (31, 17), (31, 17)]
    assert err == "resized 3 of 6 images to 8 x 8 (width x height), from 31 x 17 (2), 16 x 24 (1)\n"
    out, err = say("predict", "dense", photos[3])
    assert err == "resized 1 of 1 images to 8 x 8 (width x height), from 16 x 24\n"
    assert "resized" not in out
    assert say("predict", "dense", *photos[:3])[1] == ""


def test_many_sizes_are_one_line() -> None:
    rows = [{"size": (n, 9), "resized": True} for n in range(1, 8)]
    text = serve.resized(rows, DataSpec(shape=(1, 8, 8)))
    assert text.startswith("resized 7 of 7 images")
    assert text.endswith("and 4 other sizes")
