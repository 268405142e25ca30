"""Generation end to end: flows, guided diffusions and Wasserstein GANs, pruned, judged, exported and reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from assay.flows import api
from assay.plugins.contract import BadInput, NotAuditable
from assay.plugins.problems.generation import Generation
from assay.tasks import params as p
from assay.tasks.artifacts import load_card, load_model, load_result, not_auditable
from assay.tasks.export import export_onnx, session
from assay.tasks.inference import Inference
from assay.tasks.plan import make_plan
from assay.tasks.serve import describe

LABELLED = ["source/digits", {"name": "transform/subset", "train": 200, "test": 60}, "transform/normalize"]
UNET = {"name": "time_unet", "width": 8, "depth": 1}


def tree(**more: Any) -> dict[str, Any]:
    train = {"model": UNET, "epochs": 1, "optimizer": {"name": "adamw", "lr": 0.003}}
    return {
        "device": "cpu",
        "workers": 1,
        "prepare": [*LABELLED, "transform/generation"],
        "train": train,
        "predict": {"name": "ode_sampler", "steps": 2},
        "evaluate": ["generation/frechet", "generation/precision_recall"],
        **more,
    }


def run(params: dict[str, Any], folder: Path) -> tuple[api.Session, api.Result]:
    result = api.run(params, project=folder, prefect=False, track=False)
    return api.open_session(params, project=folder), result


def arrays(opened: api.Session, model: str) -> dict[str, np.ndarray]:
    ref = opened.plan.evaluation[model, "generation/frechet"]
    return dict(load_result(opened.store.folder(ref.slot, ref.key)).arrays)


def test_a_flow_is_trained_pruned_judged_exported_and_shown(tmp_path: Path) -> None:
    chain = [{"name": "prune/magnitude", "sparsity": 0.5}, {"name": "recover/finetune", "epochs": 1}]
    params = tree(
        compress={"pruned": chain, "int8": ["quantize/int8_static"]},
        attribute={"saliency": ["gradient"], "agreement": ["rank"], "images": 8},
    )
    params["evaluate"] += ["accuracy/top1", "cost/size", {"name": "cost/latency", "batches": [1], "repeats": 2}]
    opened, result = run(params, tmp_path)
    for model in ("dense", "pruned", "int8"):
        for method in ("generation/frechet", "generation/precision_recall", "cost/size", "cost/latency"):
            row = result.summary.find(model, method)
            assert row is not None
            assert np.isfinite(row.value), row
        assert arrays(opened, model)["samples"].shape == (36, 1, 8, 8)
    skipped = dict(opened.plan.skipped)
    assert "no attribution" in skipped["attribute"]
    assert "is for classification" in skipped["evaluate top1"]
    zeros = torch.cat([(w == 0).flatten() for w in load_model(folder_of(opened, "pruned")).parameters() if w.ndim > 1])
    assert float(zeros.double().mean()) == pytest.approx(0.5, abs=0.01)
    page = result.report.read_text(encoding="utf-8")
    assert 'id="samples"' in page
    assert "36 draws of pruned" in page
    assert "36 examples of the data" in page


def folder_of(opened: api.Session, model: str) -> Path:
    ref = opened.plan.models[model]
    return opened.store.folder(ref.slot, ref.key)


def test_a_guide_learns_labels_and_a_diffusion_is_led_by_it(tmp_path: Path) -> None:
    guide = {"data": "labelled", "model": {"name": "mlp", "hidden": [16]}, "augment": ["diffusion_noise"], "epochs": 1}
    predict = {"name": "guided_diffusion", "guide": "guide", "steps": 3, "classes": [3]}
    params = tree(datasets={"labelled": LABELLED}, trainings={"guide": guide}, predict=predict)
    params["train"] = {**params["train"], "objective": "ddpm"}
    opened, result = run(params, tmp_path)
    assert np.isfinite(result.summary.find("dense", "generation/frechet").value)  # type: ignore[union-attr]
    ref = opened.plan.trainings["guide"]
    assert load_card(opened.store.folder(ref.slot, ref.key)).spec.problem == "classification"
    recipe = opened.plan.cells[ref.key].spec["recipe"]
    assert recipe["objective"]["id"] == "train/objective/cross_entropy"
    assert recipe["problem"]["id"] == "problems/classification"
    plain = {**params, "predict": {**predict, "guide": ""}}
    other, _ = run(plain, tmp_path)
    assert not np.allclose(arrays(opened, "dense")["samples"], arrays(other, "dense")["samples"])


def test_a_gan_is_trained_pruned_and_exported_as_its_generator(tmp_path: Path) -> None:
    chain = [{"name": "prune/magnitude", "sparsity": 0.5}, {"name": "recover/finetune", "epochs": 1}]
    train = {
        "model": {"name": "gan", "width": 16, "depth": 1},
        "learner": {"name": "wgan", "n_critic": 2},
        "optimizer": {"name": "rmsprop", "lr": 0.001},
        "epochs": 1,
    }
    params = tree(train=train, predict="generator", compress={"pruned": chain})
    params["evaluate"] += ["cost/size"]
    opened, result = run(params, tmp_path)
    assert np.isfinite(result.summary.find("pruned", "generation/frechet").value)  # type: ignore[union-attr]
    folder = folder_of(opened, "dense")
    model, spec = load_model(folder), load_card(folder).spec
    path = tmp_path / "model.onnx"
    export_onnx(model, spec, path)
    noise = torch.randn(3, *spec.shape)
    assert np.allclose(session(path, 1)(noise.numpy()), model(noise).detach().numpy(), atol=1e-5)
    generator = sum(v.numel() for k, v in model.state_dict().items() if not k.startswith("critic"))
    assert path.stat().st_size < 4 * generator + 2000  # the critic, as large again, is not in the file


def test_a_network_of_a_time_is_exported_with_it(tmp_path: Path) -> None:
    opened, _ = run(tree(evaluate=[]), tmp_path)
    folder = folder_of(opened, "dense")
    model, path = load_model(folder), tmp_path / "model.onnx"
    export_onnx(model, load_card(folder).spec, path)
    import onnxruntime

    x, t = torch.randn(3, 1, 8, 8), torch.tensor([0.1, 0.5, 0.9])
    runtime = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = runtime.run(None, {"x": x.numpy(), "t": t.numpy()})
    assert np.allclose(found, model(x, t).detach().numpy(), atol=1e-4)
    assert not np.allclose(found, model(x).detach().numpy(), atol=1e-4)
    told = describe(folder, "dense")
    assert told["time"]["name"] == "t"
    assert told["output"]["what"].startswith("what the sampler asks of the network")


def test_draws_do_not_depend_on_their_batch(tmp_path: Path) -> None:
    opened, _ = run(tree(evaluate=[]), tmp_path)
    folder = folder_of(opened, "dense")
    spec, model = load_card(folder).spec, load_model(folder)
    ref = opened.plan.data["main"]
    from assay.tasks.artifacts import load_data

    batch = load_data(opened.store.folder(ref.slot, ref.key)).test.batch([4, 9, 30])
    inference = Inference(p.validate(tree()).predict, 5)
    whole = inference(model, batch, spec)
    assert torch.allclose(whole[2:], inference(model, batch.take(torch.tensor([2])), spec), atol=1e-5)
    assert not torch.allclose(whole[0], whole[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predict": None}, "predict: a generation model's predictions are drawn by a method of this slot"),
        ({"train": {"model": UNET, "objective": "mse"}}, "train.objective: train/objective/mse is for"),
        ({"train": {"model": UNET, "data": "labelled"}}, "train.data: the main training learns"),
        ({"trainings": {"guide": {"model": "mlp"}}}, ""),
        ({"trainings": {"guide": {"model": "mlp", "data": "none"}}}, "trainings.guide.data: no data set 'none'"),
        (
            {"trainings": {"guide": {"model": "mlp", "objective": "cross_entropy"}}},
            "trainings.guide.objective: train/objective/cross_entropy is for classification",
        ),
        ({"predict": {"name": "guided_diffusion", "guide": "none"}}, "predict.guide: no training 'none'"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    params = tree(**changes)
    if not message:
        p.validate(params)
        return
    with pytest.raises(BadInput, match=message):
        p.validate(params)


def test_a_network_without_a_time_is_refused(tmp_path: Path) -> None:
    params = tree(evaluate=[])
    params["train"] = {"model": {"name": "gan", "width": 8}, "epochs": 1}
    with pytest.raises(Exception, match="flow_matching needs a network of inputs and times"):
        run(params, tmp_path)
    params["train"] = {"model": UNET, "learner": "wgan", "epochs": 1}
    with pytest.raises(Exception, match="wgan needs a network with a child `critic`"):
        run(params, tmp_path)


def test_a_sampler_that_does_not_go_with_the_network_says_so(tmp_path: Path) -> None:
    opened, _ = run(tree(predict="generator", evaluate=["generation/frechet"]), tmp_path)
    ref = opened.plan.evaluation["dense", "generation/frechet"]
    assert "one pass draws nothing" in not_auditable(opened.store.folder(ref.slot, ref.key))


def test_a_draw_has_no_error() -> None:
    with pytest.raises(NotAuditable, match="no right answer"):
        Generation().error(torch.zeros(1, 2), None)  # type: ignore[arg-type]


def test_a_training_of_another_data_set_has_its_key(tmp_path: Path) -> None:
    guide = {"model": {"name": "mlp", "hidden": [4]}, "augment": ["diffusion_noise"], "data": "labelled"}
    more = {"datasets": {"labelled": LABELLED}, "trainings": {"guide": guide}, "evaluate": []}
    plan = make_plan(p.validate(tree(**more)), tmp_path, "cpu")
    cell = plan.cells[plan.trainings["guide"].key]
    assert cell.inputs["data"] == plan.data["labelled"]
    assert plan.cells[plan.models["dense"].key].inputs["data"] == plan.data["main"]
