"""Determination and errors against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import nn

from assay.plugins.contract import Batch, Context, Data, DataSpec, NotAuditable, Result, Split, Subject
from assay.plugins.evaluate.accuracy.r2 import R2, coefficient

RNG = np.random.default_rng(0)


def evaluate(y: np.ndarray, outputs: int) -> tuple[Result, np.ndarray]:
    x = RNG.normal(size=(len(y), 3)).astype(np.float32)
    spec = DataSpec(problem="regression", modality="features", shape=(3,), outputs=outputs)
    model = nn.Linear(3, outputs)
    split = Split({"x": x, "y": y.astype(np.float32)})

    def predict(batch: Batch) -> torch.Tensor:
        return model(batch.x).detach()

    subject = Subject(model, predict, spec, {"main": Data(spec, {"train": split, "test": split})})
    ctx = Context(rng=torch.Generator(), spec=spec, batch_limit=7)
    return R2().evaluate(subject, ctx), model(torch.from_numpy(x)).detach().numpy()


@pytest.mark.parametrize("outputs", [1, 3])
def test_against_scikit_learn(outputs: int) -> None:
    y = RNG.normal(size=(40, outputs) if outputs > 1 else 40) * 3 + 1
    result, f = evaluate(y, outputs)
    found = {name: number.value for name, number in result.numbers.items()}
    y, f = y.astype(np.float32).reshape(40, -1).astype(np.float64), f.astype(np.float64)
    assert found["r2"] == pytest.approx(metrics.r2_score(y, f), rel=1e-6)
    assert found["mse"] == pytest.approx(metrics.mean_squared_error(y, f), rel=1e-6)
    assert found["rmse"] == pytest.approx(metrics.mean_squared_error(y, f) ** 0.5, rel=1e-6)
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(y, f), rel=1e-6)
    each = result.numbers["mse"].each
    assert each is not None
    assert each[4] == pytest.approx(((y[4] - f[4]) ** 2).mean(), rel=1e-6)


def test_worked_by_hand() -> None:
    true, predicted = np.array([[1.0], [2.0], [6.0]]), np.array([[1.0], [4.0], [5.0]])
    assert coefficient(true, predicted) == pytest.approx(1 - 5 / 14)
    assert coefficient(true, np.full((3, 1), 3.0)) == 0.0
    assert coefficient(np.hstack([true, np.ones((3, 1))]), np.hstack([predicted, true])) == pytest.approx(1 - 5 / 14)


def test_constant_values_have_no_variance_to_explain() -> None:
    with pytest.raises(NotAuditable, match="no variance"):
        evaluate(np.ones(5), 1)
