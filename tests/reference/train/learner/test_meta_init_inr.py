"""MAML and Reptile against loops of plain autograd, finite differences and a closed form."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.plugins.contract import Batch, Bound, Context, DataSpec, State, Terms
from assay.plugins.train.learner._signals import adapted, squared_error, trainable
from assay.plugins.train.learner.meta_init_inr import MetaInitINR, maml, reptile
from assay.plugins.train.objective.mse import MSE
from assay.plugins.train.optimizer.adamw import AdamW
from assay.plugins.train.optimizer.sgd import SGD
from assay.plugins.train.schedule.constant import Constant

SPEC = DataSpec(problem="field", modality="coordinates", shape=(6, 2), outputs=1, low=(-1.0,))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1)).double()


def signals(count: int, seed: int = 0, context: bool = True) -> Batch:
    rng = np.random.default_rng(seed)
    shapes = {"x": (6, 2), "y": (6, 1), **({"x_context": (4, 2), "y_context": (4, 1)} if context else {})}
    fields = {name: torch.from_numpy(rng.normal(size=(count, *shape))) for name, shape in shapes.items()}
    return Batch({"index": torch.arange(count), **fields})


def by_sgd(model: nn.Module, x: Tensor, y: Tensor, steps: int, lr: float) -> nn.Module:
    """A copy of the model after gradient steps on one signal."""
    own = copy.deepcopy(model)
    optimizer = torch.optim.SGD(own.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        ((own(x) - y) ** 2).mean().backward()
        optimizer.step()
    return own


def context() -> Context:
    return Context(rng=torch.Generator().manual_seed(0), spec=SPEC)


def terms(optimizer: object = None) -> Terms:
    return Terms(Bound(MSE(), context(), "objective"), [], [], optimizer or SGD(lr=0.5), Constant(), 10)


def start(learner: MetaInitINR, **more: object) -> State:
    return learner.init(network(), terms(**more), None, context())  # type: ignore[arg-type]


def test_the_inner_steps_are_each_signals_own() -> None:
    model, batch = network(), signals(3)
    found = adapted(model, trainable(model), batch.x, batch.y, 3, 0.1, squared_error)
    for i in range(3):
        for name, value in by_sgd(model, batch.x[i], batch.y[i], 3, 0.1).named_parameters():
            torch.testing.assert_close(found[name][i], value.detach(), atol=1e-12, rtol=1e-12)


def test_mamls_gradient_is_that_of_finite_differences() -> None:
    model, batch = network(), signals(2)

    def loss(given: nn.Module) -> float:
        total = 0.0
        for i in range(2):
            own = by_sgd(given, batch.x_context[i], batch.y_context[i], 2, 0.3)
            total += float(((own(batch.x[i]) - batch.y[i]) ** 2).mean()) / 2
        return total

    known = Batch({"index": batch.index, "x": batch.x_context, "y": batch.y_context})
    slope, found = maml(model, trainable(model), known, batch, 2, 0.3, squared_error)
    assert float(found) == pytest.approx(loss(model), rel=1e-12)
    for name, value in slope.items():
        for at in range(0, value.numel(), 3):
            moved = []
            for sign in (1, -1):
                other = copy.deepcopy(model)
                other.get_parameter(name).data.view(-1)[at] += sign * 1e-5
                moved.append(loss(other))
            assert float(value.view(-1)[at]) == pytest.approx((moved[0] - moved[1]) / 2e-5, rel=1e-5, abs=1e-8), name


def test_mamls_gradient_of_a_linear_model_in_closed_form() -> None:
    """With loss |Xw - y|^2 / P one step of rate a gives w1 = w - (2a/P) X'(Xw - y), and the gradient in w
    of |Zw1 - t|^2 / Q is (I - (2a/P) X'X) (2/Q) Z'(Zw1 - t)."""
    torch.manual_seed(0)
    model, batch = nn.Linear(2, 1, bias=False).double(), signals(1)
    known = Batch({"index": batch.index, "x": batch.x_context, "y": batch.y_context})
    slope, _ = maml(model, trainable(model), known, batch, 1, 0.2, squared_error)
    x, y, z, t = (v[0].numpy() for v in (batch.x_context, batch.y_context, batch.x, batch.y))
    w = model.weight.detach().numpy().T
    w1 = w - (0.4 / 4) * x.T @ (x @ w - y)
    expected = (np.eye(2) - (0.4 / 4) * x.T @ x) @ ((2 / 6) * z.T @ (z @ w1 - t))
    np.testing.assert_allclose(slope["weight"].numpy().T, expected, rtol=1e-12)


@pytest.mark.parametrize("known", [True, False])
def test_reptile_with_sgd_moves_by_the_papers_rule(known: bool) -> None:
    state, batch = start(MetaInitINR(algorithm="reptile", steps=3, inner_lr=0.1)), signals(4, context=known)
    before = copy.deepcopy(state.model)
    MetaInitINR(algorithm="reptile", steps=3, inner_lr=0.1).step(state, batch, context())
    ends = []
    for i in range(4):
        x, y = batch.x[i], batch.y[i]
        if known:
            x, y = torch.cat([x, batch.x_context[i]]), torch.cat([y, batch.y_context[i]])
        ends.append(dict(by_sgd(before, x, y, 3, 0.1).named_parameters()))
    for name, value in before.named_parameters():
        expected = value + 0.5 * (torch.stack([end[name] for end in ends]).mean(0) - value)
        torch.testing.assert_close(state.model.get_parameter(name), expected, atol=1e-12, rtol=1e-12)


def test_reptiles_loss_is_that_after_the_steps() -> None:
    model, batch = network(), signals(2, context=False)
    _, loss = reptile(model, trainable(model), batch, 2, 0.1, squared_error)
    ends = [by_sgd(model, batch.x[i], batch.y[i], 2, 0.1) for i in range(2)]
    expected = np.mean([float(((ends[i](batch.x[i]) - batch.y[i]) ** 2).mean().detach()) for i in range(2)])
    assert float(loss) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("algorithm", ["maml", "reptile"])
def test_interrupted_equals_uninterrupted(algorithm: str) -> None:
    learner = MetaInitINR(algorithm=algorithm)  # type: ignore[arg-type]

    def advance(state: State, steps: range) -> None:
        for i in steps:
            learner.step(state, signals(3, seed=i), context())

    whole = start(learner, optimizer=AdamW(lr=0.01))
    advance(whole, range(4))
    first = start(learner, optimizer=AdamW(lr=0.01))
    advance(first, range(2))
    second = start(learner, optimizer=AdamW(lr=0.01))
    second.model.load_state_dict(copy.deepcopy(first.model.state_dict()))
    second.optimizers["main"].load_state_dict(copy.deepcopy(first.optimizers["main"].state_dict()))
    advance(second, range(2, 4))
    for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)
