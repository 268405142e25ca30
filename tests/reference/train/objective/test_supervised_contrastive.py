"""The supervised contrastive loss against its double sum, and with two views."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from assay.plugins.contract import Batch, Context, DataSpec
from assay.plugins.train.objective.supervised_contrastive import SupervisedContrastive, contrast

SPEC = DataSpec(problem="representation", shape=(3,), classes=("a", "b", "c"), outputs=3)


def written_out(z: np.ndarray, y: list[int], temperature: float) -> list[float]:
    found = []
    for i in range(len(z)):
        kin = [a for a in range(len(z)) if a != i and y[a] == y[i]]
        total = sum(np.exp(z[i] @ z[a] / temperature) for a in range(len(z)) if a != i)
        terms = [-np.log(np.exp(z[i] @ z[p] / temperature) / total) for p in kin]
        found.append(float(np.mean(terms)) if terms else 0.0)
    return found


def test_the_double_sum() -> None:
    z = np.random.default_rng(0).normal(size=(6, 3))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    y = [0, 1, 0, 1, 1, 2]  # the last has no other of its class
    found = contrast(torch.from_numpy(z), torch.tensor(y), 0.3)
    assert found.tolist() == pytest.approx(written_out(z, y, 0.3))


def test_gradients_are_finite_and_two_views_are_one_batch_twice_as_large() -> None:
    rng = np.random.default_rng(1)
    x, x2 = (torch.from_numpy(rng.normal(size=(4, 3))).requires_grad_() for _ in range(2))
    batch = Batch({"index": torch.arange(4), "x": x, "x2": x2, "y": torch.tensor([0, 0, 1, 2])})
    ctx = Context(rng=torch.Generator(), spec=SPEC)
    found = SupervisedContrastive(temperature=0.3).loss(nn.Identity(), batch, ctx)
    both = torch.cat([x, x2]).detach().numpy()
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    each = np.array(written_out(both, [0, 0, 1, 2] * 2, 0.3))
    assert found.tolist() == pytest.approx(list((each[:4] + each[4:]) / 2), rel=1e-5)
    found.sum().backward()
    assert bool(torch.isfinite(x.grad).all())  # type: ignore[arg-type]
    assert bool(x2.grad.abs().sum() > 0)  # type: ignore[union-attr]
