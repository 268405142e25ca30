"""Prospect converges to the optimum of a spectral risk; weights from each batch alone stall."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from assay.plugins.contract import (
    Around,
    Batch,
    Bound,
    Card,
    Context,
    Data,
    DataSpec,
    Gradients,
    NextGradients,
    Objective,
    Split,
    State,
    Terms,
)
from assay.plugins.train.around.prospect import Prospect, risk_spectrum, robust_weights
from assay.plugins.train.learner.backprop import Backprop
from assay.plugins.train.optimizer.sgd import SGD
from assay.plugins.train.schedule.constant import Constant

N, D, COST, DECAY = 128, 8, 0.1, 0.02
SPEC = DataSpec(problem="regression", modality="features", shape=(D,), outputs=1)


class HalfSquare(Objective):
    """Half the squared error."""

    card = Card(title="half the squared error")

    def score(self, output: Tensor, batch: Batch) -> Tensor:
        return (output - batch.y).square().sum(dim=1) / 2


class Batchwise(Around):
    """The baseline: the worst weights of each batch by itself."""

    card = Card(title="batch weights")

    def gradients(self, next: NextGradients, state: State, batch: Batch, ctx: Context) -> Gradients:
        with torch.no_grad():
            losses = state.terms.losses(state.model, batch).double().numpy()
        q = robust_weights(losses, risk_spectrum("superquantile", 0.5, len(losses)), COST)
        return next(batch, weights=torch.from_numpy(q * len(losses)).float())


def regression(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A linear map with noise of heavy tails."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, D))
    return x, x @ rng.normal(size=D) + rng.standard_t(3, size=N)


def risk(w: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """The robust risk with L2 decay, and its gradient."""
    losses = (x @ w - y) ** 2 / 2
    q = robust_weights(losses, risk_spectrum("superquantile", 0.5, N), COST)
    value = q @ losses - COST * N / 2 * np.sum((q - 1 / N) ** 2) + DECAY / 2 * w @ w
    return value, x.T @ (q * (x @ w - y)) + DECAY * w


def gap(around: Around, seed: int, lr: float) -> float:
    """What is left after 40 epochs of the first distance from the least risk."""
    x, y = regression(seed)
    options = {"ftol": 1e-15, "gtol": 1e-10}
    best = minimize(risk, np.zeros(D), (x, y), jac=True, method="L-BFGS-B", options=options).fun
    model = nn.Linear(D, 1, bias=False)
    nn.init.zeros_(model.weight)

    def bind(method: object, name: str) -> Bound:
        return Bound(method, Context(rng=torch.Generator(), spec=SPEC), name)

    optimizer = SGD(lr=lr, momentum=0.0, weight_decay=DECAY)
    terms = Terms(bind(HalfSquare(), "objective"), [], [bind(around, "around.0")], optimizer, Constant(), total_steps=1)
    split = Split({"x": x.astype(np.float32), "y": y.astype(np.float32)[:, None]})
    learner, ctx = Backprop(), terms.objective.ctx
    state = learner.init(model, terms, Data(SPEC, {"train": split}), ctx)
    rng = torch.Generator().manual_seed(seed)
    for _ in range(40):
        for at in torch.randperm(N, generator=rng).split(8):
            learner.step(state, split.batch(at), ctx)
    last = risk(model.weight.detach().numpy().ravel().astype(float), x, y)[0]
    return (last - best) / (risk(np.zeros(D), x, y)[0] - best)


@pytest.mark.claim
@pytest.mark.slow
def test_it_converges_where_batch_weights_stall():
    rates = (0.003, 0.01, 0.03)
    for seed in range(3):
        prospect = min(gap(Prospect(shift_cost=COST), seed, lr) for lr in rates)
        batchwise = min(gap(Batchwise(), seed, lr) for lr in rates)
        # found: 1e-8 and less against 1e-4 to 1e-3
        assert prospect < 1e-6
        assert batchwise > 100 * prospect
