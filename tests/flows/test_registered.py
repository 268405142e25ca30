"""A run that starts from a model of MLflow's registry, as Assay registered it: dense answers, keys, refusals."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import assay
from assay.flows.session import open_session
from assay.plugins.contract import DataSpec
from assay.plugins.values import AssayError, BadInput
from assay.tasks import elsewhere, mlflow_at, settings, started
from assay.tasks.artifacts import ModelCard, Step, load_card
from assay.tasks.params import validate

FIRST: dict[str, Any] = {
    "seed": 0,
    "device": "cpu",
    "workers": 1,
    "prepare": ["source/digits", {"name": "transform/subset", "train": 200, "test": 80}, "transform/normalize"],
    "train": {"model": {"name": "mlp", "hidden": [24]}, "optimizer": {"name": "adamw", "lr": 0.01}, "epochs": 2},
    "compress": {
        "pruned": [{"name": "prune/magnitude", "sparsity": 0.5}],
        "light": [{"name": "quantize/int8_static", "examples": 64}],
    },
    "evaluate": ["accuracy/top1"],
    "gates": ["accuracy/top1 >= 0.0"],
}
SECOND: dict[str, Any] = {
    **{name: FIRST[name] for name in ("seed", "device", "workers", "prepare", "evaluate", "gates")},
    "train": {"from": "models:/first-pruned@candidate"},
    "compress": {"low": ["factorize/svd"]},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project whose variants passed their gates and are registered."""
    folder = tmp_path_factory.mktemp("registered") / "first"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PREFECT_HOME", "PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        folder.mkdir()
        settings.apply(folder)
        assay.run(FIRST, project=folder, prefect=False)
        yield folder


@pytest.fixture
def params() -> dict[str, Any]:
    """Params that start from the registered model."""
    return copy.deepcopy(SECOND)


def refused(params: dict[str, Any], home: Path) -> str:
    """What a plan is refused with."""
    with pytest.raises(BadInput) as error:
        open_session(params, project=home)
    return str(error.value)


def test_the_dense_model_is_the_registered_one_with_its_links(home: Path, params: dict[str, Any]) -> None:
    before = open_session(FIRST, project=home)
    result = assay.run(params, project=home, prefect=False, track=False)
    session = open_session(params, project=home)
    folders = [
        s.store.folder(s.plan.models[m].slot, s.plan.models[m].key)
        for s, m in ((before, "pruned"), (session, "dense"), (session, "low"))
    ]
    states = [load_file(folder / "model.safetensors") for folder in folders[:2]]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert [step.id for step in load_card(folders[1]).links] == ["compress/prune/magnitude"]
    assert [step.id for step in load_card(folders[2]).links] == ["compress/prune/magnitude", "compress/factorize/svd"]
    old = assay.run(FIRST, project=home, prefect=False, track=False).summary.find("pruned", "accuracy/top1").value
    assert result.summary.find("dense", "accuracy/top1").value == old
    assert session.plan.gives["dense"] == {"sparse"}
    assert not session.plan.reseeded
    assert "models:/first-pruned/1 (prune/magnitude)" in result.report.read_text(encoding="utf-8")


def test_the_key_is_the_contents_and_the_plan_names_the_version(home: Path, params: dict[str, Any]) -> None:
    by_alias = open_session(params, project=home).plan
    params["train"]["from"] = "models:/first-pruned/1"
    by_number = open_session(params, project=home).plan
    assert by_alias.id == by_number.id
    assert by_alias.params.train.start == "models:/first-pruned/1"
    params["train"]["from"], params["compress"] = "models:/first-light/1", {}
    assert open_session(params, project=home).plan.models["dense"] != by_alias.models["dense"]
    dumped = validate(by_alias.params.model_dump(mode="json"))  # what MLflow keeps of the run can be run again
    assert open_session(dumped, project=home).plan.id == by_alias.id
    assert elsewhere.stays(by_alias.cells[by_alias.models["dense"].key])


def test_a_changed_copy_is_another_model(home: Path, params: dict[str, Any]) -> None:
    plan = open_session(params, project=home).plan
    folder = plan.starts["train"].folder
    text = (folder / "model.json").read_text(encoding="utf-8")
    try:
        (folder / "model.json").write_text(text + " ", encoding="utf-8")
        assert open_session(params, project=home).plan.models["dense"] != plan.models["dense"]
    finally:
        (folder / "model.json").write_text(text, encoding="utf-8")


def test_an_int8_model_is_measured_on_its_kernels_and_not_pruned(home: Path, params: dict[str, Any]) -> None:
    params["train"]["from"] = "models:/first-light@candidate"
    said = refused(params, home)
    assert "compress.low.0: factorize/svd needs float; quantize/int8_static of models:/first-light/1 dropped it" in said
    params["compress"] = {}
    plan = open_session(params, project=home).plan
    assert plan.gives["dense"] == {"int8"}
    assert "dense" in plan.exported
    params["train"]["epochs"] = 1
    assert "train.epochs: models:/first-light/1 has no float weights" in refused(params, home)


def test_a_compressed_models_ceiling_is_finetuned(home: Path, params: dict[str, Any]) -> None:
    params["train"]["epochs"] = 1
    params["attribute"] = {"saliency": ["gradient"], "images": 8}
    assert "say `ceiling: finetune`" in refused(params, home)
    params["attribute"]["ceiling"] = "finetune"
    plan = open_session(params, project=home).plan
    assert plan.cells[plan.models["reseeded-1"].key].inputs["start"] == plan.models["dense"]
    assert plan.params.train.model.hidden == (24,)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("models:/first-prund@candidate", ["no registered model 'first-prund'", "did you mean 'first-pruned'?"]),
        ("models:/zzz@candidate", ["no registered model 'zzz'", "registered are first-light, first-pruned"]),
        ("models:/first-pruned@candidat", ["no alias 'candidat'", "did you mean 'candidate'?"]),
        ("models:/first-pruned/7", ["has no version 7; it has 1"]),
        ("models:/first-pruned", ["write models:/NAME@ALIAS or models:/NAME/VERSION"]),
        ("models:/first-pruned/../x@y", ["write models:/NAME@ALIAS"]),
        ("models:/@candidate", ["write models:/NAME@ALIAS"]),
    ],
)
def test_what_is_not_registered_is_named(home: Path, params: dict[str, Any], reference: str, words: list[str]) -> None:
    params["train"]["from"] = reference
    said = refused(params, home)
    for word in ["train.from", *words]:
        assert word in said
    assert len(said.splitlines()) == 1


def test_a_run_may_not_start_from_its_own_candidate(home: Path, params: dict[str, Any]) -> None:
    params["compress"] = {"pruned": ["factorize/svd"]}
    assert "is what this run registers itself, as variant 'pruned'" in refused(params, home)
    params["train"]["from"] = "models:/first-pruned/1"
    open_session(params, project=home)


def test_a_registered_model_brings_its_architecture(home: Path, params: dict[str, Any]) -> None:
    params["train"]["model"] = "small_cnn"
    assert "train.model: models:/first-pruned/1 brings its own: leave `model` out" in refused(params, home)
    params["train"] = {"epochs": 1}
    assert refused(params, home) == "params: train.model: this section or value is missing"


def test_a_teacher_may_be_a_registered_model(home: Path, params: dict[str, Any]) -> None:
    params["trainings"] = {"teacher": params["train"]}
    params["train"] = {"model": "mlp", "epochs": 1}
    plan = open_session(params, project=home).plan
    assert plan.cells[plan.trainings["teacher"].key].task == "assay.tasks.started:model"


def test_other_preprocessing_ends_the_run_in_words(home: Path, params: dict[str, Any]) -> None:
    said = []
    for steps in (
        params["prepare"][:2],
        [*params["prepare"][:2], {"name": "transform/normalize", "mean": [0.5], "std": [0.5]}],
    ):
        with pytest.raises(AssayError) as error:
            assay.run({**params, "prepare": steps}, project=home, prefect=False, track=False)
        assert error.value.code == 2
        said.append(str(error.value))
    for text in said:
        assert "its inputs passed normalize (deviation 0.3" in text
        assert "the same input differs by up to" in text
    assert "this run's pass no transform" in said[0]
    assert "this run's pass normalize (deviation 0.5, mean 0.5)" in said[1]


def test_the_models_own_statistics_written_out_are_the_same_preprocessing(home: Path, params: dict[str, Any]) -> None:
    (step,) = open_session(params, project=home).plan.starts["train"].card.preprocessing
    mean, std = (step.record.tensors[name].tolist() for name in ("mean", "deviation"))
    params["prepare"][2] = {"name": "transform/normalize", "mean": mean, "std": std}
    result = assay.run(params, project=home, prefect=False, track=False)
    assert result.summary.find("dense", "accuracy/top1").value > 0.2


SPEC = DataSpec(shape=(1, 4, 4), classes=("cat", "dog"))
TOKENS = DataSpec(modality="tokens", shape=(3,), classes=("0", "1", "2"), high=(3.0,))


@pytest.mark.parametrize(
    ("own", "data", "words"),
    [
        (
            SPEC,
            {"classes": ("cat", "dog", "elk")},
            "it has 2 classes (cat, dog); the data set 3 classes (cat, dog, elk)",
        ),
        (SPEC, {"classes": ("dog", "cat")}, "its class 0 is 'cat'; the data set's is 'dog'"),
        (SPEC, {"shape": (3, 4, 4)}, "examples of shape [1, 4, 4]; the data set's: [3, 4, 4]"),
        (SPEC, {"problem": "regression"}, "problem classification; the data set's: regression"),
        (TOKENS, {"high": (9.0,)}, "it knows the tokens 0..3; the data set has up to 9"),
    ],
)
def test_data_that_the_model_was_not_made_for(own: DataSpec, data: dict[str, Any], words: str) -> None:
    card = ModelCard(own, Step("train/model/mlp", {}))
    assert list(started.misfits(card, own, [])) == []
    assert words in list(started.misfits(card, own.model_copy(update=data), []))


def test_probes_are_raw_inputs() -> None:
    assert started.probes(SPEC).dtype == np.uint8
    tokens = started.probes(TOKENS)
    assert tokens.dtype == np.int64
    assert tokens.max() <= 3
    features = started.probes(
        DataSpec(modality="features", shape=(2,), low=(-5.0, 0.0), high=(-1.0, 2.0), classes=("a", "b"))
    )
    assert features.min() < -1
    assert features.max() <= 2


def test_a_model_that_assay_did_not_register_is_refused(home: Path, params: dict[str, Any]) -> None:
    uri = mlflow_at.tracking_uri(home)
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.create_registered_model("foreign")
    (home / "foreign").mkdir()
    (home / "foreign" / "python_model.pkl").write_bytes(b"\x80\x04.")
    client.create_model_version("foreign", (home / "foreign").as_uri())
    params["train"]["from"] = "models:/foreign/1"
    assert "models:/foreign/1 is no model that Assay registered" in refused(params, home)
    assert not list((home / ".assay" / "cache" / "registered").glob("*.new"))


def test_without_a_registry_the_message_says_so(tmp_path: Path, params: dict[str, Any], monkeypatch: Any) -> None:
    assert "no model is registered yet" in refused(params, tmp_path)
    assert not (tmp_path / ".assay" / "mlflow.db").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    with pytest.raises(AssayError) as error:
        open_session(params, project=tmp_path)
    assert "MLflow does not answer at http://user:***@127.0.0.1:9" in str(error.value)
    assert "secret" not in str(error.value)


def test_a_plan_without_such_a_reference_imports_no_mlflow(tmp_path: Path) -> None:
    code = "import json, sys\nfrom assay.flows.session import open_session\n"
    code += "open_session(json.loads(sys.argv[1]), project=sys.argv[2])\nassert 'mlflow' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(FIRST), str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
