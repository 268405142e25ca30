"""A model and data of Hugging Face through a whole run: the library's own predictions, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import assay
from assay.flows import cli
from assay.flows.session import open_session
from assay.tasks.artifacts import load_card
from assay.tasks.message import _requirements

transformers = pytest.importorskip("transformers", reason="the extra huggingface is not installed")
datasets = pytest.importorskip("datasets", reason="the extra huggingface is not installed")

NAMES = ["zero", "one", "two"]
MEAN, STD = [0.5, 0.4, 0.3], [0.5, 0.6, 0.7]


def write_data(folder: Path) -> np.ndarray:
    """Digits 0, 1, 2 in colour as a data set on disk; returns the test images (N, H, W, C)."""
    x, y = load_digits(return_X_y=True)
    pixels = (x[y < 3].reshape(-1, 8, 8, 1) / 16 * [255, 200, 150]).round().astype(np.uint8)
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})

    def part(at: slice) -> Any:
        images = [Image.fromarray(a) for a in pixels[at]]
        return datasets.Dataset.from_dict({"image": images, "label": y[y < 3][at].tolist()}, features=kinds)

    datasets.DatasetDict(train=part(slice(120)), test=part(slice(120, 200))).save_to_disk(folder)
    return pixels[120:200]


def write_model(folder: Path) -> Any:
    """A random network with the files that the hub has of one; returns the library's own."""
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
        id2label=dict(enumerate(NAMES)),
        label2id={name: i for i, name in enumerate(NAMES)},
    )
    network = transformers.ResNetForImageClassification(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    network.save_pretrained(folder)
    said = {"size": {"height": 8, "width": 8}, "image_mean": MEAN, "image_std": STD}
    (folder / "preprocessor_config.json").write_text(json.dumps(said), encoding="utf-8")
    return network.eval()


@pytest.fixture
def brought(project: Any) -> Any:
    """A project with data and a model of the hub's kind."""
    project.images = write_data(project.folder / "digits-hf")
    project.network = write_model(project.folder / "tiny")
    project.tree.update(
        prepare=[
            {"name": "source/huggingface", "dataset": "small", "path": "digits-hf"},
            {"name": "transform/normalize", "mean": MEAN, "std": STD},
        ],
        train={"from": "pretrained", "model": {"name": "huggingface", "path": "tiny"}},
        compress={"int8": [{"name": "quantize/int8_static", "examples": 64}]},
    )
    project.write()
    return project


def test_a_run_has_the_librarys_predictions(brought: Any) -> None:
    result = assay.run(brought.params, prefect=False, track=False)
    x = (brought.images / 255 - MEAN) / STD
    with torch.no_grad():
        logits = brought.network(pixel_values=torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.float32)).logits
    expected = datasets.load_from_disk(str(brought.folder / "digits-hf"))["test"]["label"]
    right = float((logits.argmax(1).numpy() == np.array(expected)).mean())
    assert result.summary.find("dense", "accuracy/top1").value == pytest.approx(right, abs=1e-9)
    session = open_session(brought.params)
    folders = {name: session.store.folder(ref.slot, ref.key) for name, ref in session.plan.models.items()}
    card = load_card(folders["int8"])
    assert any(line.startswith("transformers==") for line in _requirements(card))
    assert card.spec.classes == tuple(NAMES)
    again = assay.run(brought.params, prefect=False, track=False)
    assert again.computed == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("pickled", ["pickled checkpoint", "weights_only=True"]),
        ("classes", ["know 2 classes (a, b), the data set has 3 (zero, one, two)"]),
        ("pixels", ["{name: transform/normalize, mean: [0.5, 0.4, 0.3], std: [0.5, 0.6, 0.7]}"]),
        ("nowhere", ["there is no folder 'nowhere'", "`revision` the commit"]),
    ],
)
def test_what_does_not_fit_ends_in_words(brought: Any, capsys: Any, change: str, words: list[str]) -> None:
    tiny = brought.folder / "tiny"
    if change == "pickled":
        torch.save({}, tiny / "pytorch_model.bin")
        (tiny / "model.safetensors").unlink()
    elif change == "classes":
        config = json.loads((tiny / "config.json").read_text())
        (tiny / "config.json").write_text(json.dumps({**config, "id2label": {"0": "a", "1": "b"}}))
    elif change == "pixels":
        brought.tree["prepare"].pop()
    else:
        brought.tree["train"]["model"]["path"] = "nowhere"
    brought.write()
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", "--no-server", "--only", "train"])
    said = str(capsys.readouterr().err)
    assert stop.value.code == 2, said
    assert "Traceback" not in said
    for word in words:
        assert word in said


def test_a_folder_of_the_library_is_known_by_its_files(brought: Any, capsys: Any) -> None:
    cli.main(["data", "add", "added", "digits-hf"])
    assert "{name: source/huggingface, dataset: added}" in capsys.readouterr().err
    found = np.load(brought.folder / "data" / "added" / "test.x.npy")
    np.testing.assert_array_equal(found, brought.images.transpose(0, 3, 1, 2))


ABSENT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("transformers", "huggingface_hub", "datasets"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from assay.plugins import registry, testing
for id in ("train/model/huggingface", "train/model/huggingface_text", "prepare/source/huggingface"):
    try:
        registry.load(id)
    except registry.UnknownMethod as error:
        assert "pip install 'assay[huggingface]'" in str(error), error
    else:
        raise AssertionError(id)
    assert [(o.ok, o.skipped) for o in testing.run(id)] == [(True, True)]
"""


def test_without_the_libraries_the_message_is_the_install_command() -> None:
    done = subprocess.run([sys.executable, "-c", ABSENT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
