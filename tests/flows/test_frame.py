"""What the frame does for methods: shared activations, labelled parts, closures, models and data on request,
inference by a method, evaluation along a training, and what cannot be asked of a problem."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.plugins import registry
from assay.plugins.contract import (
    Around,
    Ask,
    BadInput,
    Batch,
    Bound,
    Card,
    Context,
    Data,
    DataSpec,
    Gradients,
    Objective,
    Optimizer,
    Penalty,
    Schedule,
    Split,
    State,
    Terms,
)
from assay.plugins.train.learner._common import surrounded
from assay.plugins.train.learner.backprop import Backprop
from assay.tasks import cells as c
from assay.tasks import params as p
from assay.tasks import training
from assay.tasks.artifacts import save_data
from assay.tasks.askable import effective
from assay.tasks.job import Job
from assay.tasks.plan import make_plan

SPEC = DataSpec(shape=(3,), classes=("a", "b"))


class Counting(nn.Module):
    """Two linear layers that count their passes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Linear(3, 4)
        self.head = nn.Linear(4, 2)
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        out: Tensor = self.head(self.layers(x))
        return out


class First(Objective):
    """The squared first output."""

    card = Card(title="test")

    def score(self, output: Tensor, batch: Batch) -> Tensor:
        return output[:, 0].square()


class Features(Penalty):
    """The mean square of the features."""

    card = Card(title="test")
    announce: bool = True

    def reads(self, model: nn.Module) -> tuple[str, ...]:
        return ("layers",) if self.announce else ()

    def loss(self, model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
        return ctx.activations(model, batch, ["layers"])["layers"].square().mean(dim=1)


class Plain(Schedule):
    """No change."""

    card = Card(title="test")

    def factor(self, step: int, total: int) -> float:
        return 1.0


class Newton(torch.optim.Optimizer):
    """One diagonal Newton step, by differentiating the closure's gradients."""

    def __init__(self, groups: Any):
        super().__init__(groups, {"lr": 1.0})

    def step(self, closure: Any = None) -> Any:
        loss = closure()
        for group in self.param_groups:
            for w in group["params"]:
                (second,) = torch.autograd.grad(w.grad.sum(), w, retain_graph=True)
                w.data -= (w.grad / second).detach()
        return loss


class NewtonMethod(Optimizer):
    """The suite's second-order optimizer."""

    card = Card(title="test", needs=("closure", "graph"))

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return Newton([{"params": g["params"]} for g in groups])


def context() -> Context:
    return Context(rng=torch.Generator().manual_seed(0), spec=SPEC)


def terms(penalty: Penalty | None = None, optimizer: Any = None, objective: Any = None) -> Terms:
    penalties = [] if penalty is None else [Bound(penalty, context(), "penalty.0")]
    first = Bound(objective or First(), context(), "objective")
    return Terms(first, penalties, [], optimizer or NewtonMethod(), Plain(), total_steps=1)


def batch(count: int = 4) -> Batch:
    x = torch.arange(3.0 * count).reshape(count, 3) / 10
    return Batch({"index": torch.arange(count), "x": x})


@pytest.mark.parametrize(("announce", "passes"), [(True, 1), (False, 2)])
def test_terms_that_say_what_they_read_share_one_pass(announce: bool, passes: int) -> None:
    torch.manual_seed(0)
    model, given = Counting(), batch()
    losses = terms(Features(announce=announce)).losses(model, given)
    assert model.passes == passes
    hidden = given.x @ model.layers.weight.T + model.layers.bias
    expected = model.head(hidden)[:, 0].square() + hidden.square().mean(1)
    assert torch.allclose(losses, expected)
    assert not model.layers._forward_hooks


def test_the_objective_is_asked_of_labelled_examples_alone() -> None:
    torch.manual_seed(0)
    model = Counting()
    labelled = torch.tensor([True, False, False, True])
    given = batch().replace(labelled=labelled)
    objective, penalty = terms(Features()).apart(model, given)
    plain = model(given.x)[:, 0].square()
    assert torch.allclose(objective.mean(), plain[labelled].mean())
    assert not objective[~labelled].any()
    assert penalty.all()
    none = given.replace(labelled=torch.zeros(4, dtype=torch.bool))
    assert float(terms().losses(model, none).sum()) == 0.0


def test_an_optimizer_may_differentiate_its_closures_gradients() -> None:
    class Bowl(Objective):
        """3 (w - 2)^2: a Newton step lands on 2."""

        card: ClassVar[Card] = Card(title="test")

        def loss(self, model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
            (w,) = model.parameters()
            return 3 * (w - 2).square().sum().expand(batch.size)

    model = nn.Module()
    model.w = nn.Parameter(torch.tensor([7.0]))
    learner = Backprop()
    state = learner.init(model, terms(objective=Bowl()), None, context())  # type: ignore[arg-type]
    logs = learner.step(state, batch(), context())
    assert float(logs["loss"]) == 75.0
    assert float(model.w) == pytest.approx(2.0)  # type: ignore[arg-type]
    assert model.w.grad is None


class Rows(Around):
    """Updates with the first example's gradient alone."""

    card = Card(title="test")

    def gradients(self, next: Any, state: State, batch: Batch, ctx: Context) -> Gradients:
        found = next(batch, weights=torch.full((batch.size,), 2.0), apart=True)
        return Gradients(found.losses, [None if g is None else g[0] for g in found.grads])


def test_an_around_may_have_each_examples_gradient() -> None:
    torch.manual_seed(0)
    model, given = Counting(), batch()
    inner = [Bound(Rows(), context(), "around.0")]
    state = State(model, {}, {}, dataclasses.replace(terms(), around=inner))
    found = surrounded(state, inner, given)
    loss = 2 * model(given.x[:1])[0, 0].square()
    expected = torch.autograd.grad(loss, list(model.parameters()))
    assert all(torch.allclose(a, b) for a, b in zip(found.grads, expected, strict=True) if a is not None)
    with pytest.raises(BadInput, match="must be the last"):
        surrounded(state, [*inner, *inner], given)


ENV = c.Env("cpu", 1, ".")
INPUTS = {"data": c.Ref("prepare/source", "d"), "model": c.Ref("train", "m"), "model:judge": c.Ref("train", "j")}


def recipe() -> dict[str, Any]:
    train = p.Train.model_validate({"model": "mlp", "objective": "cross_entropy"})
    return c.recipe_spec(train)


def test_an_asks_transforms_and_models_become_inputs_of_its_training() -> None:
    ask = Ask(
        transforms=[{"name": "transform/label_noise", "fraction": 1.0}, {"name": "transform/normalize"}],
        models={"teacher": "parent", "judge": "judge"},
        seed=5,
    )
    ((noise, normal, training),) = c.ask_cells("study", [ask], recipe(), 0, ENV, "study", INPUTS)
    assert noise.inputs == {"data": INPUTS["data"]}
    assert noise.spec["seed"] == training.spec["seed"] == 5
    assert normal.inputs == {"data": noise.ref}
    assert training.inputs["data"] == normal.ref
    assert training.inputs["model:teacher"] == INPUTS["model"]
    assert training.inputs["model:judge"] == INPUTS["model:judge"]
    branch = Ask(start=Ask(changes={"epochs": 2}, seed=7), seed=8)
    ((shared, child),) = c.ask_cells("study", [branch], recipe(), 0, ENV, "study", INPUTS)
    assert child.inputs["start"] == shared.ref
    assert shared.spec["recipe"]["epochs"] == 2
    assert (shared.spec["seed"], child.spec["seed"]) == (7, 8)
    with pytest.raises(BadInput, match="no model 'other'"):
        c.ask_cells("study", [Ask(models={"teacher": "other"})], recipe(), 0, ENV, "study", INPUTS)


def test_an_ask_that_its_learner_cannot_honour_is_refused() -> None:
    """A search or a study asks while it runs: its trainings pass the same door as the params."""

    def asked(learner: str, ask: Ask) -> None:
        changes = {"learner": learner, **ask.changes}
        c.ask_cells("study", [dataclasses.replace(ask, changes=changes)], recipe(), 0, ENV, "study", INPUTS)

    with pytest.raises(BadInput, match=r"study: train\.around: meta_init_inr has no place for ema"):
        asked("meta_init_inr", Ask(changes={"around": ["ema"]}))
    with pytest.raises(
        BadInput, match=r"train\.optimizer: adahessian asks for gradients itself and .*, and wgan cannot"
    ):
        asked("wgan", Ask(changes={"optimizer": "adahessian"}))
    with pytest.raises(BadInput, match="study: convex_relu_admm trains from a start of its own"):
        asked("convex_relu_admm", Ask(start="parent"))
    asked("convex_relu_admm", Ask())
    asked("grownet", Ask(changes={"around": ["ema"]}, start="parent"))


def test_what_a_learner_refuses_may_stand_there_by_default() -> None:
    model = {"name": "mlp", "hidden": [8]}
    for learner in ("forward_forward", "grownet", "direct_feedback_alignment"):
        found = p.validate(tree(train={"model": model, "learner": learner}))
        again = effective(found)[0].model_dump(mode="json")  # with every default written out
        assert again["train"]["objective"]["name"] == "cross_entropy"
        p.validate(again)
    split = ["source/digits", "transform/validation_split"]
    p.validate({**tree(train={"model": model, "learner": "implicit_diff"}), "prepare": split})
    other = {"model": model, "learner": "implicit_diff", "data": "other"}
    p.validate(tree(datasets={"other": split}, trainings={"judge": other}))
    with pytest.raises(BadInput, match=r"trainings\.judge\.learner: implicit_diff needs a split `validation`"):
        p.validate({**tree(datasets={"other": ["source/digits"]}, trainings={"judge": other}), "prepare": split})


def test_a_learner_goes_on_with_networks_that_it_made_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    split = Split({"x": rng.random((8, 6), dtype=np.float32), "y": np.arange(8) % 2})
    save_data(tmp_path / "data", Data(DataSpec(shape=(6,), modality="features", classes=("a", "b")), {"train": split}))

    def train(name: str, learner: Any, **inputs: Path) -> None:
        params = p.validate(tree(train={"model": "mlp", "learner": learner, "epochs": 1}))
        spec = {"recipe": c.recipe_spec(effective(params)[0].train), "seed": 0}
        (tmp_path / name).mkdir()
        training.train(Job(spec, {"data": tmp_path / "data", **inputs}, tmp_path / name, tmp_path / name))

    ensemble = {"name": "grownet", "stages": 1}
    train("plain", "backprop")
    train("boosted", ensemble)
    train("on", ensemble, start=tmp_path / "boosted")
    train("too", "backprop", start=tmp_path / "boosted")
    with pytest.raises(BadInput, match="grownet trains the networks that it makes"):
        train("not", ensemble, start=tmp_path / "plain")


def tree(**more: Any) -> dict[str, Any]:
    return {"prepare": ["source/digits"], "train": {"model": {"name": "mlp", "hidden": [8]}}, **more}


def test_a_recipe_without_objective_takes_the_problems_own(tmp_path: Path) -> None:
    model = {"name": "mlp", "hidden": [8]}
    plan = make_plan(p.validate(tree()), tmp_path, "cpu")
    named = make_plan(p.validate(tree(train={"model": model, "objective": "cross_entropy"})), tmp_path, "cpu")
    assert plan.models == named.models


def test_a_gate_on_a_number_that_its_method_does_not_have_is_refused() -> None:
    with pytest.raises(BadInput, match=r"calibration/ece has no number 'bryer'; did you mean 'brier'\?"):
        p.validate(tree(evaluate=["calibration/ece"], gates=["calibration/ece.bryer <= 1"]))
    with pytest.raises(BadInput, match="has no number 'b2'; did you mean 'b32'"):
        p.validate(tree(evaluate=["cost/latency"], gates=["cost/latency.b2 <= 1"]))
    section = {"saliency": ["gradient"], "agreement": ["rank"]}
    with pytest.raises(BadInput, match="rank has no number 'mean'; it has rank"):
        p.validate(tree(attribute=section, gates=["gradient:rank.mean >= 0"]))
    p.validate(tree(evaluate=["calibration/ece"], gates=["calibration/ece.brier <= 1"]))


def test_what_a_problem_does_not_allow_is_refused_or_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.load("prepare/source/digits"), "becomes", lambda self: "regression")
    with pytest.raises(BadInput, match=r"train\.objective: train/objective/cross_entropy is for classification"):
        p.validate(tree(train={"model": "mlp", "objective": "cross_entropy"}))
    with pytest.raises(BadInput, match=r"prepare\.1: prepare/transform/label_noise is for classification"):
        p.validate(tree(prepare=["source/digits", "transform/label_noise"]))
    asked = {"saliency": ["gradient"], "agreement": ["rank"], "audit": ["deletion"]}
    plan = make_plan(p.validate(tree(evaluate=["accuracy/top1", "cost/size"], attribute=asked)), tmp_path, "cpu")
    assert [what for what, _ in plan.skipped] == ["audit deletion", "evaluate top1"]
    assert "is for classification; the data set's problem is regression" in plan.skipped[0][1]
    assert {label for _, label in plan.evaluation} == {"cost/size"}
    assert not plan.audit
    recipe = plan.cells[plan.models["dense"].key].spec["recipe"]
    assert recipe["objective"]["id"] == "train/objective/mse"


def test_an_around_that_needs_gradients_apart_must_be_the_last() -> None:
    model = {"name": "mlp", "hidden": [8]}
    p.validate(tree(train={"model": model, "around": ["clip", "upgrad"]}))
    with pytest.raises(BadInput, match=r"train\.around\.0: upgrad needs each example's gradient: put it last"):
        p.validate(tree(train={"model": model, "around": ["upgrad", "clip"]}))


def test_evaluators_go_along_the_kept_checkpoints(tmp_path: Path) -> None:
    from assay.flows import api
    from assay.tasks.artifacts import load_result

    params = tree(
        train={
            "model": {"name": "mlp", "hidden": [16]},
            "batches": {"name": "shuffled", "size": 25},
            "optimizer": {"name": "adamw", "lr": 0.03},
            "epochs": 3,
            "keep": [0, 1, "last"],
        },
        compress={"pruned": ["prune/magnitude"]},
        evaluate=[{"name": "accuracy/top1", "over": "trajectory"}],
        prepare=["source/digits", {"name": "transform/subset", "train": 200, "test": 60}],
    )
    result = api.run(params, project=tmp_path, prefect=False, track=False)
    session = api.open_session(params, project=tmp_path)
    dense = session.plan.evaluation["dense", "accuracy/top1"]
    found = load_result(session.store.folder(dense.slot, dense.key))
    assert found.arrays["epoch"].tolist() == [0, 1, 3]
    path = found.arrays["top1_by_epoch"]
    assert path[-1] == found.numbers["top1"].value
    assert path[0] < path[-1]
    assert np.isfinite(path).all()
    pruned = session.plan.evaluation["pruned", "accuracy/top1"]
    alone = load_result(session.store.folder(pruned.slot, pruned.key))
    assert "epoch" not in alone.arrays
    assert result.summary.find("pruned", "accuracy/top1").value == alone.numbers["top1"].value  # type: ignore[union-attr]


def test_what_looks_along_a_training_sees_each_epoch(tmp_path: Path) -> None:
    from assay.flows import api
    from assay.tasks.artifacts import load_result

    along = [{"name": "dynamics/information_plane"}, {"name": "dynamics/opposing_signals", "size": 3}]
    params = tree(
        train={
            "model": {"name": "mlp", "hidden": [6, 4], "activation": "tanh"},
            "batches": {"name": "shuffled", "size": 40},
            "epochs": 3,
            "keep": ["all"],
        },
        evaluate=along,
        prepare=["source/digits", {"name": "transform/subset", "train": 80, "test": 20}],
    )
    result = api.run(params, project=tmp_path, prefect=False, track=False)
    session = api.open_session(params, project=tmp_path)
    for entry in along:
        ref = session.plan.evaluation["dense", entry["name"]]
        found = load_result(session.store.folder(ref.slot, ref.key))
        assert found.arrays["epoch"].tolist() == [0, 1, 2, 3]
    page = result.report.read_text(encoding="utf-8")  # type: ignore[union-attr]
    assert "bits_about_label over bits_about_input" in page
    for name in ("layers.tanh1", "layers.tanh2", "output", "largest increase", "all others"):
        assert f">{name}</text>" in page
