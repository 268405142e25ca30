"""ADMM's iteration in dense matrices, its end certified by a dual bound, and the network it becomes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, nnls
from torch import nn

from assay.plugins.contract import Batch, Bound, Context, Data, DataSpec, Split, State, Terms
from assay.plugins.train.learner.convex_relu_admm import (
    Convex,
    ConvexReLUADMM,
    gate_patterns,
    network_weights,
    shrunk,
    with_ones,
)
from assay.plugins.train.objective.mse import MSE
from assay.plugins.train.optimizer.adamw import AdamW
from assay.plugins.train.schedule.constant import Constant

RNG = np.random.default_rng(0)
X = np.hstack([RNG.normal(size=(20, 3)), np.ones((20, 1))])
Y = (np.abs(X[:, :1]) + X[:, 1:2] * X[:, 2:3] + 0.1 * RNG.normal(size=(20, 1))) - 0.3
SPEC = DataSpec(problem="regression", modality="features", shape=(3,), outputs=1)


def patterns(count: int = 12) -> torch.Tensor:
    return gate_patterns(torch.from_numpy(X), count, torch.Generator().manual_seed(0))


def matrices(on: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F (n, 2P D) and G (2P n, 2P D) written out."""
    blocks = [sign * np.diag(d) @ X for sign in (1, -1) for d in on]
    signs = [np.diag(2 * d - 1) @ X for _ in range(2) for d in on]
    n, width = X.shape
    g = np.zeros((len(signs) * n, len(signs) * width))
    for i, block in enumerate(signs):
        g[i * n : (i + 1) * n, i * width : (i + 1) * width] = block
    return np.hstack(blocks), g


def test_patterns_are_those_of_units_and_all_different() -> None:
    on = patterns(30).numpy()
    assert len({row.tobytes() for row in on}) == len(on) == 30
    assert set(np.unique(on)) == {0.0, 1.0}
    for row in on:  # a plane through the origin has these examples on one side and the others on the other
        signed = (2 * row - 1)[:, None] * X
        assert linprog(np.zeros(4), A_ub=-signed, b_ub=-np.ones(20), bounds=(None, None)).success
    one = torch.ones(5, 1, dtype=torch.float64)
    assert len(gate_patterns(one, 10, torch.Generator().manual_seed(0))) == 2


def test_shrinkage_is_the_proximal_step_of_lengths() -> None:
    u = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(shrunk(u, 1.0), torch.tensor([[2.4, 3.2], [0, 0], [0, 0]], dtype=torch.float64))


def test_iterations_in_dense_matrices() -> None:
    on, beta, rho = patterns(), 0.05, 0.3
    convex = Convex(torch.from_numpy(X), torch.from_numpy(Y), on, rho)
    f, g = matrices(on.numpy())
    v, s, lam, nu = np.zeros(f.shape[1]), np.zeros(len(g)), np.zeros(f.shape[1]), np.zeros(len(g))
    system = f.T @ f / rho + np.eye(f.shape[1]) + g.T @ g
    for _ in range(4):
        convex.iterate(beta, rho)
        u = np.linalg.solve(system, f.T @ Y[:, 0] / rho + v - lam + g.T @ (s - nu))
        rows = (u + lam).reshape(-1, 4)
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        v = np.where(length > beta / rho, rows * (1 - beta / rho / np.maximum(length, 1e-30)), 0).ravel()
        s = np.maximum(g @ u + nu, 0)
        lam, nu = lam + u - v, nu + g @ u - s
        np.testing.assert_allclose(convex.v.numpy().ravel(), v, atol=1e-9)
        np.testing.assert_allclose(convex.s.numpy().ravel(), s, atol=1e-9)
        np.testing.assert_allclose(convex.dual_s.numpy().ravel(), nu, atol=1e-9)


def dual_bound(on: np.ndarray, residual: np.ndarray, beta: float) -> float:
    """A lower bound of the program from any residual: r'y - |r|^2 / 2, r made so short that for each gate some mu >= 0
    has |F_i' r + G_i' mu| <= beta; the best mu by non-negative least squares."""
    worst = 0.0
    for sign in (1, -1):
        for d in on:
            worst = max(worst, nnls(((2 * d - 1)[:, None] * X).T, -sign * (d[:, None] * X).T @ residual)[1])
    r = residual * min(1.0, beta / worst)
    return float(r @ Y[:, 0] - r @ r / 2)


def test_the_end_is_the_optimum_by_its_duality_gap() -> None:
    on, beta, rho = patterns(40), 0.1, 0.1
    convex = Convex(torch.from_numpy(X), torch.from_numpy(Y), on, rho)
    for _ in range(4000):
        convex.iterate(beta, rho)
    f, g = matrices(on.numpy())
    v = convex.v.numpy().ravel()
    residual = Y[:, 0] - f @ v
    primal = residual @ residual / 2 + beta * np.linalg.norm(v.reshape(-1, 4), axis=1).sum()
    dual = dual_bound(on.numpy(), residual, beta)
    assert (g @ v).min() > -1e-5
    assert abs(primal - dual) < 1e-3 * primal
    assert primal < Y[:, 0] @ Y[:, 0] / 4  # far below the zero network's loss


def test_the_network_computes_what_the_program_does() -> None:
    """Units that keep their gates: rectified units are the gated linear ones, and the squared weights are twice
    the lengths."""
    on = patterns(6)
    v = torch.zeros(1, 12, 4, dtype=torch.float64)
    for i in range(12):
        signed = (2 * on[i % 6] - 1)[:, None] * torch.from_numpy(X)
        # The pattern's own unit, found again by least squares on margins; zero where that misses it.
        unit = torch.linalg.lstsq(torch.from_numpy(X), (2 * on[i % 6] - 1)).solution
        v[0, i] = unit * (i + 1) if bool((signed @ unit >= 0).all()) else 0
    assert int((v.norm(dim=-1) > 0).sum()) >= 2
    sign = torch.tensor([1.0] * 6 + [-1.0] * 6, dtype=torch.float64)
    hidden, out = network_weights(v, sign)
    found = (torch.from_numpy(X) @ hidden.T).clamp_min(0) @ out.T
    expected = matrices(on.numpy())[0] @ v.numpy().ravel()
    np.testing.assert_allclose(found.numpy()[:, 0], expected, atol=1e-9)
    squares = float(hidden.square().sum() + out.square().sum())
    assert squares == pytest.approx(2 * float(v.norm(dim=-1).sum()))


def context() -> Context:
    return Context(rng=torch.Generator().manual_seed(0), spec=SPEC)


def start(learner: ConvexReLUADMM, outputs: int = 1) -> State:
    y = np.hstack([Y * (k + 1) for k in range(outputs)])
    split = Split({"x": X[:, :3].astype(np.float32), "y": y.astype(np.float32)})
    data = Data(SPEC.model_copy(update={"outputs": outputs}), {"train": split, "test": split})
    terms = Terms(Bound(MSE(), context(), "objective"), [], [], AdamW(), Constant(), 10)
    model = learner.apply(nn.Identity(), learner.fit(nn.Identity(), data, context()))
    return learner.init(model, terms, data, context())


def step(learner: ConvexReLUADMM, state: State) -> float:
    batch = Batch({"index": torch.arange(2), "x": torch.zeros(2, 3), "y": torch.zeros(2)})
    return float(learner.step(state, batch, context())["loss"])


def test_the_loss_is_that_of_the_network_that_is_kept() -> None:
    learner = ConvexReLUADMM(gates=20, beta=0.1)
    state = start(learner)
    for _ in range(200):
        loss = step(learner, state)
    x = torch.from_numpy(X[:, :3].astype(np.float32))
    output = state.model(x).detach().numpy()
    squares = sum(float(p.detach().square().sum()) for name, p in state.model.named_parameters() if name != "head.bias")
    expected = np.square(output - Y).sum() / 2 + 0.1 * squares / 2
    assert loss == pytest.approx(expected, rel=1e-4)
    assert float(state.model.get_parameter("head.bias")) == pytest.approx(Y.mean(), rel=1e-5)


def test_several_outputs_are_several_programs() -> None:
    learner = ConvexReLUADMM(gates=10, beta=0.05)
    one, two = start(learner), start(learner, outputs=2)
    for _ in range(50):
        step(learner, one)
        step(learner, two)
    x = torch.from_numpy(X[:, :3].astype(np.float32))
    torch.testing.assert_close(two.model(x)[:, :1], one.model(x), atol=1e-4, rtol=1e-4)
    out = two.model.get_parameter("head.weight")
    assert not out[0, 20:].any()
    assert not out[1, :20].any()


def test_ones_for_the_biases() -> None:
    assert with_ones(torch.zeros(2, 2, 2)).tolist() == [[0, 0, 0, 0, 1]] * 2
