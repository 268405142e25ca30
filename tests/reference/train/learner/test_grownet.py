"""GrowNet against numpy: Newton steps, the fit of a new learner by hand, and what an ensemble predicts."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from assay.plugins.contract import BadInput, Bound, Context, Data, DataSpec, Split, Terms
from assay.plugins.train.learner.grownet import GrowNet, first_and_second, newton_losses, stage_at, starting_point
from assay.plugins.train.objective.cross_entropy import CrossEntropy
from assay.plugins.train.objective.mse import MSE
from assay.plugins.train.optimizer.sgd import SGD
from assay.plugins.train.schedule.constant import Constant

LR = 0.1


def classes() -> Data:
    x = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    spec = DataSpec(shape=(4,), modality="features", classes=("a", "b", "c"))
    return Data(spec, {"train": Split({"x": x, "y": np.array([0, 2, 1, 0, 0, 1])})})


def net(outputs: int = 3, inputs: int = 4) -> nn.Module:
    torch.manual_seed(0)
    layers = OrderedDict(flatten=nn.Flatten(), one=nn.Linear(inputs, 5), act=nn.ReLU())
    return nn.Sequential(OrderedDict(layers=nn.Sequential(layers), head=nn.Linear(5, outputs)))


def terms_of(objective: object, data: Data) -> Terms:
    bound = Bound(objective, Context(rng=torch.Generator(), spec=data.spec), "objective")
    return Terms(bound, [], [], SGD(lr=LR), Constant(), 1)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def numbers(stage: nn.Module) -> list[np.ndarray]:
    return [p.detach().double().numpy() for p in stage.parameters()]


def run(weights: list[np.ndarray], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A learner's output and features."""
    w1, b1, w2, b2 = weights
    h = np.maximum(x @ w1.T + b1, 0)
    return h @ w2.T + b2, h


def test_derivatives_of_the_objectives() -> None:
    data = classes()
    batch = data.train.batch(slice(0, 6))
    output = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    p, onehot = softmax(output.numpy()), np.eye(3)[batch.y.numpy()]
    losses, g, h = first_and_second(terms_of(CrossEntropy(), data), output, batch)
    assert np.allclose(losses.numpy(), -np.log((p * onehot).sum(1)), atol=1e-5)
    assert np.allclose(g.numpy(), p - onehot, atol=1e-6)
    assert np.allclose(h.numpy(), p * (1 - p), atol=1e-6)
    values = batch.replace(y=torch.ones(6, 3))
    _, g, h = first_and_second(terms_of(MSE(), data), output, values)
    assert np.allclose(g.numpy(), 2 * (output.numpy() - 1) / 3, atol=1e-6)
    assert np.allclose(h.numpy(), 2 / 3)


def test_the_fit_is_to_the_newton_step_weighted_by_the_curvature() -> None:
    rng = torch.Generator().manual_seed(0)
    g, h, step = (torch.rand(5, 2, generator=rng, dtype=torch.float64) + 0.1 for _ in range(3))
    distance = (h * (step + g / h).square() / 2).sum(1)
    assert torch.allclose(newton_losses(g, h, step), distance - (g.square() / h / 2).sum(1))


def test_a_new_learner_by_hand(begin) -> None:
    """Two steps of the first stage, two of the second, which sees the first's features; then a correction."""
    data = classes()
    training = begin(GrowNet(stages=2, corrective=0.34), net(), data, CrossEntropy(), lr=LR, steps=6)
    for group in training.state.optimizers["corrective"].param_groups:
        group["lr"] *= group["lr_scale"]
    model, batch = training.state.model, data.train.batch(slice(0, 6))
    x, onehot = batch.x.double().numpy(), np.eye(3)[batch.y.numpy()]
    start = np.log(np.array([4, 3, 2]) / 9)[None]
    one, two = numbers(model.stages[0]), numbers(model.stages[1])

    def fitted(weights, given, total):
        p = softmax(total)
        f, h = run(weights, given)
        d = ((p - onehot) + p * (1 - p) * f) / 6
        below = (d @ weights[2]) * (h > 0)
        return [w - LR * g for w, g in zip(weights, (below.T @ given, below.sum(0), d.T @ h, d.sum(0)), strict=True)]

    for step in range(3):
        expected = -np.log((softmax(start) * onehot).sum(1)).mean()
        assert float(training.step(batch, step)) == pytest.approx(expected, rel=1e-5)
        one = fitted(one, x, start)
    assert int(model.grown) == 1
    output, features = run(one, x)
    for step in (3, 4):
        training.step(batch, step)
        two = fitted(two, np.concatenate([x, features], axis=1), start + output)
    for stage, weights in zip(model.stages, (one, two), strict=True):
        for parameter, expected in zip(stage.parameters(), weights, strict=True):
            assert np.allclose(parameter.detach().numpy(), expected, atol=1e-5)
    assert [float(rate) for rate in model.rates] == [1.0, 1.0]
    last, _ = run(two, np.concatenate([x, features], axis=1))
    total = start + output + last
    assert np.allclose(model(batch.x).detach().numpy(), total, atol=1e-4)
    training.step(batch, 5)
    d = (softmax(total) - onehot) / 6
    assert float(model.rates[0]) == pytest.approx(1 - LR / 2 * (d * output).sum(), abs=1e-5)
    assert float(model.rates[1]) == pytest.approx(1 - LR / 2 * (d * last).sum(), abs=1e-5)


def test_stages_share_the_steps_and_the_first_has_no_correction() -> None:
    assert [stage_at(i, 6, 2, 0.5) for i in range(6)] == [(0, True)] * 3 + [(1, True)] * 2 + [(1, False)]
    assert [stage_at(i, 5, 3, 0.5) for i in range(5)] == [(0, True), (0, True), (1, True), (1, False), (2, True)]
    assert all(stage_at(i, 7, 7, 0.9) == (i, True) for i in range(7))


def test_the_start_is_the_best_constant() -> None:
    split = classes().train
    assert np.allclose(starting_point(split, 3).numpy(), np.log([[4 / 9, 3 / 9, 2 / 9]]))
    assert starting_point(split.replace(y=np.array([1.0, 2.0, 3.0, 4.0, 5.0, 9.0])), 1).tolist() == [[4.0]]
    some = split.replace(y=np.array([0, -1, -1, -1, 2, -1]), labelled=np.array([1, 0, 0, 0, 1, 0], dtype=bool))
    assert np.allclose(starting_point(some, 3).numpy(), np.log([[2 / 5, 1 / 5, 2 / 5]]))


def test_a_finished_ensemble_is_corrected_and_what_cannot_be_boosted_is_refused(begin) -> None:
    data = classes()
    learner = GrowNet(stages=3)
    short = begin(learner, net(), data, CrossEntropy(), steps=2)
    with pytest.raises(BadInput, match="grownet has 3 stages and the training 2 steps"):
        short.step(data.train.batch(slice(0, 6)))
    model = short.state.model
    model.grown.fill_(3)
    ctx = Context(rng=torch.Generator(), spec=data.spec)
    state = learner.init(model, terms_of(CrossEntropy(), data), data, ctx)
    before = [p.detach().clone() for p in model.parameters()]
    learner.step(state, data.train.batch(slice(0, 6)), ctx)
    assert all(not torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
    assert int(model.grown) == 3
    bare = net()
    bare.head = nn.Identity()
    with pytest.raises(BadInput, match="grownet needs a dense head; here it is a Identity"):
        learner.fit(bare, data, ctx)
    with pytest.raises(BadInput, match="trains chains of dense layers on the example's 4 values"):
        learner.fit(net(inputs=5), data, ctx)
