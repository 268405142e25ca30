"""UPGrad against the projection as a quadratic program over the gradients themselves, by active sets."""

from __future__ import annotations

from itertools import chain, combinations

import numpy as np
import pytest
import torch
from torch import nn

from assay.plugins.contract import Batch
from assay.plugins.train.around.upgrad import UPGrad, example_weights, projection_weights


def projected(rows: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The nearest d to x with rows @ d >= 0: of all sets of active constraints, the nearest feasible point."""
    m = len(rows)
    best = None
    for active in chain.from_iterable(combinations(range(m), k) for k in range(m + 1)):
        a = rows[list(active)]
        d = x - np.linalg.pinv(a) @ (a @ x) if len(active) else x
        if (rows @ d >= -1e-9).all() and (best is None or np.sum((d - x) ** 2) < np.sum((best - x) ** 2)):
            best = d
    assert best is not None
    return best


def jacobians() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    found = [rng.normal(size=shape) for shape in ((2, 2), (3, 5), (4, 3), (5, 2), (6, 6))]
    found.append(np.array([[1.0, 0.0], [-1.0, 1e-3]]))  # almost opposite
    found.append(np.array([[1.0, 2.0], [-1.0, -2.0], [3.0, 1.0]]))  # opposite
    found.append(np.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]) * 1e-4)
    return found


@pytest.mark.parametrize("rows", jacobians(), ids=lambda rows: str(rows.shape))
def test_the_mean_of_projected_gradients(rows):
    expected = np.mean([projected(rows, row) for row in rows], axis=0)
    found = projection_weights(rows @ rows.T) @ rows
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(rows).max())
    assert (rows @ found >= -1e-6 * np.abs(rows).max() ** 2).all()


def test_two_gradients_by_hand():
    # (1, 0) and (-1, 1): the first becomes (1/2, 1/2), the second (0, 1)
    rows = np.array([[1.0, 0.0], [-1.0, 1.0]])
    np.testing.assert_allclose(projection_weights(rows @ rows.T) @ rows, [0.25, 0.75], atol=1e-12)
    assert (rows @ rows.mean(axis=0) < 0).sum() == 0
    rows = np.array([[3.0, 0.0], [-1.0, 1.0]])
    assert (rows @ rows.mean(axis=0) < 0).any()  # the mean conflicts
    np.testing.assert_allclose(projection_weights(rows @ rows.T) @ rows, [0.75, 1.25])


def test_gradients_without_conflict_are_averaged_and_none_may_be_zero():
    rows = np.random.default_rng(0).random((7, 4))
    np.testing.assert_allclose(projection_weights(rows @ rows.T), np.full(7, 1 / 7))
    np.testing.assert_allclose(projection_weights(np.zeros((3, 3))), np.full(3, 1 / 3))
    rows[2] = 0
    np.testing.assert_allclose(projection_weights(rows @ rows.T) @ rows, rows.mean(axis=0))


def test_linear_under_scaling():
    """The paper's definition: scaling one objective's gradient scales its own part alone."""
    rows = np.random.default_rng(1).normal(size=(3, 6))

    def aggregate(c: float) -> np.ndarray:
        scaled = rows * np.array([c, 1.0, 1.0])[:, None]
        return projection_weights(scaled @ scaled.T) @ scaled

    np.testing.assert_allclose(aggregate(2.0) - aggregate(1.0), aggregate(3.0) - aggregate(2.0), atol=1e-9)


def test_groups_of_examples_are_objectives():
    rows = np.random.default_rng(2).normal(size=(5, 4))
    grouped = np.stack([rows[:3].mean(axis=0), rows[3:].mean(axis=0)])
    found = example_weights(torch.from_numpy(rows @ rows.T), 2).numpy() @ rows
    np.testing.assert_allclose(found, np.mean([projected(grouped, g) for g in grouped], axis=0), atol=1e-9)
    np.testing.assert_allclose(
        example_weights(torch.from_numpy(rows @ rows.T), 0), projection_weights(rows @ rows.T), atol=1e-12
    )
    np.testing.assert_allclose(example_weights(torch.from_numpy(rows @ rows.T), 1), np.full(5, 0.2))


def test_a_step_by_hand(start, learn):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    x, y = torch.randn(4, 3), torch.randn(4, 1)
    w = np.append(model.weight.detach().numpy().ravel(), model.bias.detach().numpy())
    inputs = np.column_stack([x.numpy(), np.ones(4)])
    rows = (inputs @ w - y.numpy().ravel())[:, None] * inputs  # of half the squared error
    expected = w - 0.1 * np.mean([projected(rows, row) for row in rows], axis=0)
    state = start(model, UPGrad())
    loss = learn(state, Batch({"index": torch.arange(4), "x": x, "y": y}))
    assert loss.item() == pytest.approx(np.mean((inputs @ w - y.numpy().ravel()) ** 2) / 2, rel=1e-5)
    found = np.append(model.weight.detach().numpy().ravel(), model.bias.detach().numpy())
    np.testing.assert_allclose(found, expected, atol=1e-6)
