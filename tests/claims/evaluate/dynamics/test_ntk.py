"""Jacot et al. 2018: the wider the network, the less its tangent kernel moves until it has fitted the data."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from assay.plugins.contract import Context, Data, DataSpec, Split, Subject
from assay.plugins.evaluate.dynamics.ntk import NTK

SPEC = DataSpec(problem="regression", modality="features", shape=(2,), outputs=1)


def moved(width: int, seed: int) -> float:
    """The kernel's relative change over a training that brings the loss to a third."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((24, 2)).astype(np.float32)
    y = np.sin(2 * x[:, :1]) * x[:, 1:]
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))
    first = copy.deepcopy(model)
    inputs, target = torch.from_numpy(x), torch.from_numpy(y)
    # The kernel grows with the width, so that this rate is the same speed in function space.
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0 / width)
    start = float((model(inputs) - target).square().mean())
    for _ in range(20_000):
        optimizer.zero_grad()
        loss = (model(inputs) - target).square().mean()
        if float(loss.detach()) < start / 3:
            break
        loss.backward()
        optimizer.step()
    else:
        raise AssertionError(f"width {width} did not fit: {float(loss):.3f} of {start:.3f}")
    kept = [("epoch-00000", first), ("epoch-00001", model)]
    data = {"main": Data(SPEC, {"train": Split({"x": x, "y": y})})}
    subject = Subject(model, lambda b: model(b.x), SPEC, data, trajectory=lambda: iter(kept))
    ctx = Context(rng=torch.Generator().manual_seed(0), spec=SPEC)
    return float(NTK(examples=24).evaluate(subject, ctx).numbers["change"].value)


@pytest.mark.claim
@pytest.mark.slow
def test_wider_networks_move_their_kernel_less() -> None:
    widths = (16, 128, 1024)
    found = np.array([[moved(width, seed) for width in widths] for seed in range(3)])
    mean = found.mean(0)
    assert (found[:, 0] > found[:, 2]).all()
    assert mean[0] > 1.5 * mean[1], mean
    assert mean[1] > 1.5 * mean[2], mean
