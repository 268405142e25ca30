"""A run that predicts by a method: evaluated, attacked, explained and timed through it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from assay.flows import api
from assay.plugins.attribute.saliency.gradient import Gradient
from assay.plugins.contract import Batch, Context, Data, NotAuditable, Subject
from assay.plugins.evaluate.cost.latency import Latency
from assay.plugins.evaluate.robustness.pgd import PGD
from assay.plugins.predict.adaptive_smoothing import AdaptiveSmoothing
from assay.plugins.predict.ode_sampler import OdeSampler
from assay.tasks.artifacts import load_attribution, load_card, load_data, load_model, load_result, not_auditable
from assay.tasks.cells import Ref
from assay.tasks.inference import Inference, network
from assay.tasks.job import context
from assay.tasks.params import BadInput, validate
from assay.tasks.subject import cached_images, make_subject

RECIPE = {"model": {"name": "mlp", "hidden": [32]}, "optimizer": {"name": "adamw", "lr": 0.01}, "epochs": 3}
TREE: dict[str, Any] = {
    "device": "cpu",
    "prepare": ["source/digits", {"name": "transform/subset", "train": 300, "test": 100}],
    "train": RECIPE,
    "trainings": {"safe": {**RECIPE, "around": [{"name": "adversarial", "eps": 0.1, "steps": 2}]}},
    "compress": {"pruned": [{"name": "prune/magnitude", "sparsity": 0.3}]},
    "attribute": {"saliency": ["gradient"], "audit": ["deletion"], "controls": ["random"], "images": 16},
    "predict": {"name": "adaptive_smoothing", "robust": "safe", "alpha": 0.9},
    "evaluate": [
        "accuracy/top1",
        {"name": "robustness/pgd", "examples": 100, "steps": 5},
        {"name": "cost/latency", "batches": [1], "warmup": 0, "repeats": 3},
    ],
}


class Mixture(nn.Module):
    """0.1 of one model's probabilities and 0.9 of another's, written out."""

    def __init__(self, one: nn.Module, other: nn.Module):
        super().__init__()
        self.one, self.other = one, other

    def forward(self, x: Tensor) -> Tensor:
        return (0.1 * self.one(x).softmax(1) + 0.9 * self.other(x).softmax(1)).log()


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> api.Session:
    """A finished run."""
    project = tmp_path_factory.mktemp("predict")
    api.run(TREE, project=project, prefect=False, track=False)
    return api.open_session(TREE, project=project)


def folder(opened: api.Session, ref: Ref) -> Path:
    return opened.store.folder(ref.slot, ref.key)


def mixture(opened: api.Session, model: str) -> nn.Module:
    plan = opened.plan
    return Mixture(*(load_model(folder(opened, ref)) for ref in (plan.models[model], plan.trainings["safe"]))).eval()


def data(opened: api.Session) -> Data:
    return load_data(folder(opened, opened.plan.data["main"]))


def measured(opened: api.Session, model: str, label: str) -> dict[str, float]:
    place = folder(opened, opened.plan.evaluation[model, label])
    assert not not_auditable(place)
    return {name: number.value for name, number in load_result(place).numbers.items()}


@pytest.mark.parametrize("model", ["dense", "pruned"])
def test_accuracy_and_attack_are_the_mixtures(opened: api.Session, model: str) -> None:
    given, mixed = data(opened), mixture(opened, model)
    batch = given.test.batch(slice(0, len(given.test)))
    right = (mixed(batch.x).argmax(1) == batch.y).double().mean()
    assert measured(opened, model, "accuracy/top1")["top1"] == pytest.approx(float(right))

    def robust(module: nn.Module) -> float:
        subject = Subject(module, lambda b: mixed(b.x).detach(), given.spec, {"main": given})
        ctx = context(0, "pgd", given.spec, torch.device("cpu"))
        return PGD(examples=100, steps=5).evaluate(subject, ctx).numbers["robust"].value

    found = measured(opened, model, "robustness/pgd")["robust"]
    assert found == pytest.approx(robust(mixed))
    assert found < robust(load_model(folder(opened, opened.plan.models[model])))  # an attack on the network alone


def test_maps_and_audits_are_the_mixtures(opened: api.Session) -> None:
    given, mixed = data(opened), mixture(opened, "dense")
    cell = opened.plan.cells[opened.plan.saliency["dense", "gradient"].key]
    places = {role: folder(opened, ref) for role, ref in cell.inputs.items()}
    inference = Inference(AdaptiveSmoothing(robust="safe", alpha=0.9), 0, (("safe", places["model:safe"]),))
    images = cached_images(places["dense"], places["data"], 16, 0, "cpu", inference)
    assert images.target.equal(mixed(images.x).argmax(1))
    ctx = Context(rng=torch.Generator(), spec=given.spec)
    expected = Gradient().attribute(mixed, images, lambda z, b: z.gather(1, b.target[:, None])[:, 0], ctx).values
    found = load_attribution(folder(opened, opened.plan.saliency["dense", "gradient"])).values
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    audit = load_result(folder(opened, opened.plan.audit["dense", "gradient", "deletion"]))
    whole = mixed(images.x).softmax(1).gather(1, images.target[:, None]).mean()
    assert audit.arrays["deletion"][0] == pytest.approx(float(whole), abs=1e-5)


def test_what_is_timed_is_what_a_user_calls(opened: api.Session) -> None:
    assert measured(opened, "dense", "cost/latency")["b1"] > 0
    cell = opened.plan.cells[opened.plan.evaluation["dense", "cost/latency"].key]
    places = {role: folder(opened, ref) for role, ref in cell.inputs.items()}
    inference = Inference(AdaptiveSmoothing(robust="safe", alpha=0.9), 0, (("safe", places["model:safe"]),))
    subject = make_subject(places, torch.device("cpu"), inference=inference)
    assert subject.runtime is not None
    assert network(subject.answering) is subject.model is not subject.answering
    x = data(opened).test.batch([0, 1, 2]).x
    threads = torch.get_num_threads()
    np.testing.assert_allclose(subject.runtime(2)(x.numpy()), mixture(opened, "dense")(x).detach(), atol=1e-5)
    assert torch.get_num_threads() == threads
    assert Latency(batches=(2,), repeats=2).evaluate(subject, context(0, "", subject.spec, torch.device("cpu"))).numbers
    plain = make_subject(places, torch.device("cpu"))
    assert plain.answering is plain.model
    assert plain.runtime is not None
    alone = load_model(places["model"])(x).detach()
    np.testing.assert_allclose(plain.runtime(1)(x.numpy()), alone, atol=1e-4)


def test_the_report_says_how_models_predict(opened: api.Session) -> None:
    (page,) = opened.project.glob("reports/*/report.html")
    said = "Every model predicts by adaptive_smoothing (robust safe, alpha 0.9)."
    assert said in page.read_text(encoding="utf-8")
    assert said.replace("_", "\\_") in page.with_name("model_card.md").read_text(encoding="utf-8")


class Shifted(nn.Module):
    """A linear layer and a parameter of the module itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Linear(4, 3)
        self.shift = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layers(x) + self.shift
        return found


def test_a_predicting_model_is_a_view(opened: api.Session) -> None:
    """Weights put in its place, or changed in a copy, count; wrapped or asked twice it predicts once."""
    spec, model = load_card(folder(opened, opened.plan.models["dense"])).spec, Shifted()

    class Doubled(AdaptiveSmoothing):
        """Twice the model's answer."""

        def predict(self, model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
            return 2 * model(batch.x)

    inference, x = Inference(Doubled(robust="safe")), torch.randn(2, 4)
    seen = inference.module(model, spec)
    assert [name for name, _ in seen.named_parameters()] == [name for name, _ in model.named_parameters()]
    torch.testing.assert_close(seen(x), 2 * model(x))
    torch.testing.assert_close(functional_call(seen, {"shift": torch.ones(3)}, (x,)), 2 * (model(x) + 1))
    other = copy.deepcopy(seen)
    with torch.no_grad():
        other.get_parameter("shift").add_(1.0)
    torch.testing.assert_close(other(x), 2 * (model(x) + 1))
    torch.testing.assert_close(inference.module(seen, spec)(x), 2 * model(x))
    torch.testing.assert_close(inference(seen, Batch({"x": x}), spec), 2 * model(x))
    assert network(seen) is model


def test_a_method_without_gradient_says_so(opened: api.Session) -> None:
    spec, model = load_card(folder(opened, opened.plan.models["dense"])).spec, Shifted()
    inference = Inference(OdeSampler())
    with pytest.raises(NotAuditable, match="ode_sampler, which has no gradient"):
        inference.module(model, spec)


@pytest.mark.parametrize(
    ("predict", "message"),
    [
        ({"robust": "none"}, r"predict.robust: no training 'none' in `trainings` \['dense', 'safe'\]"),
        ({"robust": "safe", "alpha": 0}, "greater than 0"),
        ({}, "robust"),
    ],
)
def test_refusals(predict: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        validate({**TREE, "predict": {"name": "adaptive_smoothing", **predict}})
