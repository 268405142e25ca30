"""The Betti matching loss and its gradient, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.plugins.contract import Batch, Context, DataSpec
from assay.plugins.train.penalty.betti_matching import BettiMatching, matching_loss

RING = np.array([[1, 1, 1, 1], [1, 0, 0, 1], [1, 1, 1, 1]]) > 0


def graded(probability: Tensor, true: np.ndarray) -> tuple[float, Tensor]:
    leaf = probability.clone().requires_grad_()
    loss = matching_loss(leaf, true)
    loss.backward()
    assert leaf.grad is not None
    return float(loss), leaf.grad


def test_a_weak_link_of_a_ring_is_raised_and_nothing_else() -> None:
    p = torch.where(torch.from_numpy(RING), 1.0, 0.0).double()
    p[2, 1] = 0.3
    loss, gradient = graded(p, RING)
    # The hole is born at 0.3 and not at 1: 2 (0.3 - 1)^2. It dies at 0, and the component is as it should be.
    assert loss == pytest.approx(2 * 0.7**2)
    assert gradient[2, 1] == pytest.approx(4 * (0.3 - 1))
    gradient[2, 1] = 0
    assert not gradient.any()


def test_a_dot_that_should_not_be_is_lowered() -> None:
    true = np.zeros((3, 5), dtype=bool)
    true[:, 0] = True
    p = torch.zeros(3, 5, dtype=torch.float64)
    p[:, 0], p[1, 3], p[:, 1:3], p[1, 4] = 1.0, 0.6, 0.1, 0.0
    loss, gradient = graded(p, true)
    # An unmatched component from 0.6 down to 0.1, where it joins the other.
    assert loss == pytest.approx(0.5**2)
    assert gradient[1, 3] == pytest.approx(2 * 0.5)
    assert float(gradient.sum()) == pytest.approx(0.0)


def test_what_is_missing_counts_though_nothing_can_raise_it() -> None:
    flat = torch.full((3, 4), 0.25, dtype=torch.float64)
    # Components: born at 0.25, not 1. The hole has no partner, and lasts from 1 to 0.
    assert graded(flat, RING)[0] == pytest.approx(2 * 0.75**2 + 1)


class Logits(nn.Module):
    """Answers given logits."""

    def __init__(self, values: Tensor):
        super().__init__()
        self.values = nn.Parameter(values)

    def forward(self, x: Tensor) -> Tensor:
        return self.values


def test_the_penalty_is_of_all_foreground_classes_together() -> None:
    p = torch.full((3, 4), 0.2)
    p[torch.from_numpy(RING)] = 0.9
    background = (1 - p).log()
    two = (p / 2).log()
    logits = torch.stack([background, two, two])[None].repeat(2, 1, 1, 1)
    y = torch.from_numpy(RING).long()[None].repeat(2, 1, 1) * torch.tensor([1, 2])[:, None, None]
    ctx = Context(rng=torch.Generator(), spec=DataSpec(problem="segmentation", shape=(1, 3, 4), classes=("", "a", "b")))
    batch = Batch({"index": torch.arange(2), "x": torch.zeros(2, 1, 3, 4), "y": y})
    found = BettiMatching(weight=2.0).loss(Logits(logits), batch, ctx)
    # Component: 2 (0.9 - 1)^2; hole: 2 ((0.9 - 1)^2 + 0.2^2).
    assert found.tolist() == pytest.approx([2 * (2 * 0.01 + 2 * (0.01 + 0.04))] * 2, rel=1e-4)
