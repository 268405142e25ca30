"""The tangent kernel against closed forms and against one backward pass an output."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.plugins.contract import Context, Data, DataSpec, NotAuditable, Split, Subject
from assay.plugins.evaluate.dynamics.ntk import NTK, alignment, change, kernel

SPEC = DataSpec(problem="regression", modality="features", shape=(3,), outputs=2)


def test_of_a_linear_model_it_is_the_inputs_products() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3)
    model = nn.Linear(3, 2)  # d f_k / d W_kj = x_j, d f_k / d b_k = 1
    expected = torch.kron(x.double() @ x.double().T + 1, torch.eye(2).double())
    assert torch.allclose(kernel(model, x), expected, atol=1e-5)


def brute(model: nn.Module, x: Tensor) -> Tensor:
    """One backward pass for each output of each example."""
    rows = []
    for one in model(x):
        for value in one:
            grads = torch.autograd.grad(value, [p for p in model.parameters() if p.requires_grad], retain_graph=True)
            rows.append(torch.cat([g.flatten() for g in grads]).double())
    stacked = torch.stack(rows)
    return stacked @ stacked.T


def test_of_a_network_with_frozen_parts_and_running_statistics_it_is_that_of_single_backward_passes() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(
        OrderedDict(layers=nn.Linear(3, 5), norm=nn.BatchNorm1d(5), act=nn.Tanh(), head=nn.Linear(5, 2))
    )
    model.norm.running_mean.normal_()
    model.layers.bias.requires_grad_(False)
    model.eval()
    x = torch.randn(6, 3)
    assert torch.allclose(kernel(model, x), brute(model, x), rtol=1e-4, atol=1e-5)


def test_change_and_alignment() -> None:
    first = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    assert change(first, 3 * first) == pytest.approx(2.0)
    assert alignment(first, 3 * first) == pytest.approx(1.0)
    assert alignment(first, torch.tensor([[0.0, 1.0], [1.0, 0.0]])) == 0.0


def subject(models: list[nn.Module]) -> Subject:
    rng = np.random.default_rng(0)
    split = Split({"x": rng.standard_normal((8, 3)).astype(np.float32), "y": np.zeros((8, 2), np.float32)})
    kept = [(f"epoch-{i:05d}", m.eval()) for i, m in enumerate(models)]
    return Subject(
        models[-1], lambda b: b.x, SPEC, {"main": Data(SPEC, {"train": split})}, trajectory=lambda: iter(kept)
    )


def test_along_the_checkpoints() -> None:
    """A linear layer's own kernel never moves; scaled inputs of the second layer move it."""
    torch.manual_seed(2)
    linear = [nn.Linear(3, 2), nn.Linear(3, 2)]
    ctx = Context(rng=torch.Generator().manual_seed(0), spec=SPEC)
    found = NTK(examples=5).evaluate(subject(linear), ctx)
    assert found.arrays["change"].tolist() == pytest.approx([0, 0], abs=1e-6)
    assert found.numbers["alignment"].value == pytest.approx(1)
    assert found.arrays["spectrum"].sum() == pytest.approx(1)
    assert (np.diff(found.arrays["spectrum"]) <= 1e-12).all()
    moved = NTK(examples=5).evaluate(subject([nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)) for _ in range(3)]), ctx)
    assert moved.arrays["change"][0] == 0
    assert (moved.arrays["change"][1:] > 0.01).all()
    with pytest.raises(NotAuditable, match="two kept checkpoints"):
        NTK().evaluate(subject(linear[:1]), ctx)
