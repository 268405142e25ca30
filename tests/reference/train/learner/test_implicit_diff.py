"""Implicit hypergradients on quadratics, against their closed forms and finite differences of the whole training."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.plugins.contract import BadInput, Data, DataSpec, Split
from assay.plugins.train.learner.implicit_diff import ImplicitDiff, hypergradient, inverse_hessian_product

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((12, 3)), RNG.standard_normal(12)
XV, YV = RNG.standard_normal((9, 3)), RNG.standard_normal(9)


def ridge(log_decay: np.ndarray) -> np.ndarray:
    """The weights that minimise |X w - y|^2 / 2n + sum exp(decay) w^2 / 2."""
    return np.linalg.solve(X.T @ X / len(X) + np.diag(np.exp(log_decay)), X.T @ Y / len(X))


def validation(log_decay: np.ndarray) -> float:
    """The validation loss of these weights."""
    return float(((XV @ ridge(log_decay) - YV) ** 2).mean() / 2)


def losses(w: Tensor, decay: Tensor) -> tuple[Tensor, Tensor]:
    x, y, xv, yv = map(torch.from_numpy, (X, Y, XV, YV))
    training = (x @ w - y).square().mean() / 2 + (decay.exp() * w.square()).sum() / 2
    return training, (xv @ w - yv).square().mean() / 2


@pytest.mark.parametrize("shape", [3, 1])
def test_the_hypergradient_of_ridge_regression(shape) -> None:
    """One decay a weight, or one for all: the closed form, and a finite difference of the solved problem."""
    log_decay = np.array([-1.0, 0.5, -2.0])[:shape]
    full = np.broadcast_to(log_decay, 3)
    w = torch.from_numpy(ridge(full)).requires_grad_()
    decay = torch.from_numpy(log_decay.copy()).requires_grad_()
    (found,) = hypergradient(*losses(w, decay), [w], [decay], alpha=0.3, terms=2000)
    v = XV.T @ (XV @ ridge(full) - YV) / len(XV)
    hessian = X.T @ X / len(X) + np.diag(np.exp(full))
    each = -np.exp(full) * ridge(full) * np.linalg.solve(hessian, v)
    assert np.allclose(found.numpy(), each if shape == 3 else each.sum(), atol=1e-9)
    step = 1e-5 * np.eye(shape)
    ends = [
        (validation(np.broadcast_to(log_decay + d, 3)), validation(np.broadcast_to(log_decay - d, 3))) for d in step
    ]
    assert np.allclose(found.numpy(), [(a - b) / 2e-5 for a, b in ends], atol=1e-7)


@pytest.mark.parametrize("terms", [0, 1, 4])
def test_a_truncated_series_is_the_sum_of_its_powers(terms) -> None:
    a = RNG.standard_normal((3, 3))
    hessian, alpha = torch.from_numpy(a @ a.T), 0.05
    w = torch.ones(3, dtype=torch.float64, requires_grad=True)
    gradient = torch.autograd.grad(w @ hessian @ w / 2, w, create_graph=True)
    v = torch.from_numpy(RNG.standard_normal(3))
    (found,) = inverse_hessian_product(gradient, [w], [v], alpha, terms)
    power = torch.eye(3, dtype=torch.float64) - alpha * hessian
    expected = alpha * sum(torch.linalg.matrix_power(power, j) @ v for j in range(terms + 1))
    assert torch.allclose(found, expected)


def data(validation: bool = True) -> Data:
    spec = DataSpec(problem="regression", modality="features", shape=(3,), outputs=1)
    train, held_out = (
        Split({"x": x.astype(np.float32), "y": y[:, None].astype(np.float32)}) for x, y in ((X, Y), (XV, YV))
    )
    return Data(spec, {"train": train, **({"validation": held_out} if validation else {})})


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(OrderedDict(layers=nn.Flatten(), head=nn.Linear(3, 1, bias=False)))


def test_a_training_alternates_between_weights_and_decays(begin) -> None:
    """Three steps of which the second moves the decays, by hand; Adam's first step has the length `lr`."""
    found, lr, start = data(), 0.1, 0.5
    learner = ImplicitDiff(per="weight", start=start, every=2, lr=0.2, terms=3, alpha=0.1)
    training = begin(learner, linear(), found, lr=lr)
    model, batch = training.state.model, found.train.batch(slice(0, 12))
    w, log = model.head.weight.detach().double().numpy().ravel(), np.full(3, np.log(start))
    for step in range(3):
        loss = ((X @ w - Y) ** 2).mean() / 2 + (np.exp(log) * w**2).sum() / 2
        assert float(training.step(batch, step)) == pytest.approx(loss, rel=1e-5)
        w = w - lr * (X.T @ (X @ w - Y) / 12 + np.exp(log) * w)
        if step == 1:
            hessian = X.T @ X / 12 + np.diag(np.exp(log))
            v = XV.T @ (XV @ w - YV) / 9
            product = 0.1 * sum(np.linalg.matrix_power(np.eye(3) - 0.1 * hessian, j) @ v for j in range(4))
            log = log + 0.2 * np.sign(np.exp(log) * w * product)
        (decays,) = training.state.own["learner"].buffers()
        assert np.allclose(model.head.weight.detach().numpy().ravel(), w, atol=1e-5)
        assert np.allclose(decays.numpy().ravel(), log, atol=1e-4)
    assert not any(parameter.grad is None for parameter in model.parameters())
    assert all(log.grad is None and not log.requires_grad for log in training.state.own["learner"].buffers())


def test_one_decay_for_each_tensor_and_what_it_cannot_do(begin) -> None:
    found = data()
    model = nn.Sequential(OrderedDict(layers=nn.Flatten(), head=nn.Linear(3, 1)))
    training = begin(ImplicitDiff(), model, found)
    assert [log.shape for log in training.state.own["learner"].buffers()] == [(), ()]
    with pytest.raises(BadInput, match="tunes on a split `validation`, which the data have not"):
        begin(ImplicitDiff(), linear(), data(validation=False))
    wild = begin(ImplicitDiff(alpha=100, terms=200, every=1), linear(), found)
    with pytest.raises(BadInput, match=r"train\.learner\.alpha: with 100\.0 the Neumann series diverges"):
        wild.step(found.train.batch(slice(0, 12)))
