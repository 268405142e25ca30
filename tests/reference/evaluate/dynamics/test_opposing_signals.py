"""Gradients and Hessians in closed form, a dense Hessian, and a course of one weight by hand."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from assay.plugins.contract import Batch, Context, Data, DataSpec, NotAuditable, Result, Split, Subject
from assay.plugins.evaluate.dynamics.opposing_signals import (
    OpposingSignals,
    curvature,
    extremes,
    gradient,
    largest_eigenvalue,
    opposition,
)

SPEC = DataSpec(problem="regression", modality="features", shape=(1,), outputs=1)


def context() -> Context:
    return Context(rng=torch.Generator().manual_seed(0), spec=SPEC, batch_limit=7)


def batches_of(x: np.ndarray, y: np.ndarray, limit: int = 7) -> list[Batch]:
    return list(Split({"x": x, "y": y}).batches(limit))


def logistic(output: Tensor, batch: Batch) -> Tensor:
    return F.binary_cross_entropy_with_logits(output[:, 0], batch.y.float(), reduction="none")


def squared(output: Tensor, batch: Batch) -> Tensor:
    return (output[:, 0] - batch.y).square()


def test_logistic_regression_in_closed_form() -> None:
    """The gradient X^T (p - y) / N and the Hessian X^T diag(p (1 - p)) X / N."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 6)).astype(np.float32) * np.array([4, 1, 1, 1, 1, 0.5], dtype=np.float32)
    y = rng.integers(0, 2, 40)
    model = nn.Linear(6, 1, bias=False)
    w = model.weight.detach().double().numpy()[0]
    p = 1 / (1 + np.exp(-x.astype(np.float64) @ w))
    hessian = (x.T * (p * (1 - p))) @ x / 40
    batches = batches_of(x, y)
    assert gradient(model, logistic, batches).numpy() == pytest.approx(x.T @ (p - y) / 40, abs=1e-6)
    v = rng.normal(size=6).astype(np.float32)
    assert curvature(model, logistic, batches, torch.tensor(v)).numpy() == pytest.approx(hessian @ v, abs=1e-5)
    found = largest_eigenvalue(lambda v: curvature(model, logistic, batches, v), torch.randn(6), 6)
    assert found == pytest.approx(np.linalg.eigvalsh(hessian)[-1], rel=1e-5)
    groups = (np.array([3, 1, 4]), np.array([0, 9]))
    a, b = (x[g].T @ (p - y)[g] / len(g) for g in groups)
    expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert opposition(model, logistic, Split({"x": x, "y": y}), groups, context()) == pytest.approx(expected, abs=1e-5)


def test_a_network_s_product_is_that_with_its_dense_hessian() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    model[0].bias.requires_grad_(False)  # is no weight of the training
    x, y = np.random.default_rng(1).normal(size=(2, 20, 3)).astype(np.float32)
    batches = batches_of(x, y[:, 0])
    shapes = [p for p in model.parameters() if p.requires_grad]
    names = [name for name, p in model.named_parameters() if p.requires_grad]

    def loss(vector: Tensor) -> Tensor:
        parts = vector.split([p.numel() for p in shapes])
        weights = {n: v.view_as(p) for n, v, p in zip(names, parts, shapes)}
        output = torch.func.functional_call(model, weights, (torch.tensor(x),))
        return (output[:, 0] - torch.tensor(y[:, 0])).square().mean()

    at = torch.cat([p.detach().flatten() for p in shapes])
    dense = torch.autograd.functional.hessian(loss, at)
    v = torch.randn(len(at))
    assert torch.allclose(curvature(model, squared, batches, v), dense @ v, atol=1e-5)
    found = largest_eigenvalue(lambda v: curvature(model, squared, batches, v), torch.randn(len(at)), len(at))
    assert found == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-4)
    assert all(p.grad is None for p in model.parameters())


def test_the_largest_eigenvalue_is_not_the_longest() -> None:
    values = torch.tensor([-10.0, 1.0, 0.5, -3.0, 0.0])
    basis = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0)))[0]
    matrix = basis @ torch.diag(values) @ basis.T
    assert largest_eigenvalue(lambda v: matrix @ v, torch.ones(5), 20) == pytest.approx(1.0, abs=1e-4)
    assert largest_eigenvalue(lambda v: 3 * v, torch.ones(4), 10) == pytest.approx(3.0)  # found in one step
    assert largest_eigenvalue(lambda v: 0 * v, torch.ones(4), 10) == 0.0
    below = [largest_eigenvalue(lambda v: matrix @ v, torch.ones(5), k) for k in (1, 2, 3, 5)]
    assert below == sorted(below)


def test_a_loss_that_is_linear_in_the_weights_has_no_curvature() -> None:
    model = nn.Linear(2, 1)
    batches = batches_of(np.ones((3, 2), np.float32), np.zeros(3))
    assert float(curvature(model, lambda output, _: output[:, 0], batches, torch.ones(3)).abs().sum()) == 0.0


def test_extremes_come_most_extreme_first() -> None:
    up, down = extremes(np.array([0.1, -4.0, 3.0, 0.0, 7.0, -1.0]), 2)
    assert up.tolist() == [4, 2]
    assert down.tolist() == [1, 5]


def model_at(weight: float) -> nn.Module:
    """x to weight * x, all of it in `layers`."""
    model = nn.Sequential(OrderedDict(layers=nn.Linear(1, 1, bias=False), head=nn.Identity()))
    nn.init.constant_(model.layers.weight, weight)
    return model.eval()


# Two examples at 10 that want opposite weights, and six at 1 that want none.
X = np.array([1, 1, 10, 1, 1, 10, 1, 1], dtype=np.float32)[:, None]
Y = np.array([0, 0, 10, 0, 0, -10, 0, 0], dtype=np.float32)
WEIGHTS = (0.1, -0.2, 0.3, -0.6, 0.5, -0.4)


def ask(weights: Sequence[float] = WEIGHTS, loss: object = squared, **params: int) -> Result:
    kept = [(f"epoch-{i:05d}", model_at(w)) for i, w in enumerate(weights)]
    data = {"main": Data(SPEC, {"train": Split({"x": X, "y": Y})})}
    subject = Subject(kept[-1][1], lambda b: b.x, SPEC, data, loss=loss, trajectory=lambda: iter(kept))  # type: ignore[arg-type]
    return OpposingSignals(**params).evaluate(subject, context())


def test_a_course_of_one_weight_by_hand() -> None:
    found = ask(size=1)
    each = (np.array(WEIGHTS)[:, None] * X[:, 0] - Y) ** 2
    assert found.arrays["loss"] == pytest.approx(each.mean(1), rel=1e-5)
    # The third step, from 0.3 to -0.6, raises the mean loss most: example 2 gains what 5 loses, and more.
    assert found.arrays["pair"].tolist() == [[2], [5]]
    assert found.arrays["group_loss"] == pytest.approx(
        np.stack([each[:, 2], each[:, 5], np.delete(each, [2, 5], 1).mean(1)], 1), rel=1e-4
    )
    # 2 x (w x - y): 200 (w - 1) and 200 (w + 1) have opposite signs between the weights that the two want.
    assert found.arrays["cosine"] == pytest.approx(-np.ones(6))
    assert found.arrays["step_cosine"][1:] == pytest.approx(-np.ones(5))
    assert found.numbers["cosine"].value == pytest.approx(-1)
    around = each[:-1] + each[1:]
    assert found.arrays["share"][1:] == pytest.approx(around[:, [2, 5]].sum(1) / around.sum(1), rel=1e-4)
    assert found.numbers["share"].value == pytest.approx((around[:, [2, 5]].sum(1) / around.sum(1)).mean(), rel=1e-4)
    assert found.arrays["feature_norm"] == pytest.approx(10 * np.ones(6), rel=1e-5)
    assert found.arrays["sharpness"] == pytest.approx(2 * (X**2).mean() * np.ones(6), rel=1e-5)
    # Between the weights 1 and -1 that the two want, what one gains the other loses, in whatever step.
    assert found.numbers["antiphase"].value == 1.0
    assert all(np.isnan(found.arrays[name][0]) for name in ("step_cosine", "share"))


def test_steps_in_which_both_fall_are_not_in_antiphase() -> None:
    weights = (3.0, 2.0, 1.4, 0.5, -0.4)
    each = (np.array(weights)[:, None] * X[:, 0] - Y) ** 2
    assert np.sign(np.diff(each[:, [2, 5]], axis=0)).tolist() == [[-1, -1], [-1, -1], [1, -1], [1, -1]]
    # No step raises the mean loss; the last lowers it least, and is the one that the pair is chosen by.
    assert ask(weights, size=1).numbers["antiphase"].value == pytest.approx(1 / 3)


def test_of_some_examples_the_pair_keeps_its_numbers_in_the_training_split() -> None:
    for seed in range(5):
        chosen = np.sort(torch.randperm(8, generator=torch.Generator().manual_seed(seed))[:6].numpy())
        kept = [(f"epoch-{i:05d}", model_at(w)) for i, w in enumerate(WEIGHTS)]
        data = {"main": Data(SPEC, {"train": Split({"x": X, "y": Y})})}
        subject = Subject(kept[-1][1], lambda b: b.x, SPEC, data, loss=squared, trajectory=lambda kept=kept: iter(kept))
        ctx = Context(rng=torch.Generator().manual_seed(seed), spec=SPEC)
        found = OpposingSignals(examples=6, size=1).evaluate(subject, ctx)
        assert found.arrays["loss"] == pytest.approx(
            ((np.array(WEIGHTS)[:, None] * X[:, 0] - Y) ** 2)[:, chosen].mean(1), rel=1e-4
        )
        if {2, 5} <= set(chosen.tolist()):
            assert found.arrays["pair"].tolist() == [[2], [5]]


def test_groups_are_at_most_a_third_of_the_examples() -> None:
    found = ask(size=50)
    assert found.arrays["pair"].shape == (2, 2)
    assert len(set(found.arrays["pair"].flatten().tolist())) == 4
    assert np.isfinite(found.arrays["group_loss"]).all()


def test_what_cannot_be_asked() -> None:
    with pytest.raises(NotAuditable, match="objective"):
        ask(loss=None)
