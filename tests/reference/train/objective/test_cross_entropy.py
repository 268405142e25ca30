"""Cross-entropy against its formula in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.plugins.contract import Batch
from assay.plugins.train.objective.cross_entropy import CrossEntropy

LOGITS = np.random.default_rng(0).normal(0, 3, (6, 4))
LABELS = np.array([0, 3, 1, 1, 2, 0])


def by_hand(q: np.ndarray, smoothing: float) -> np.ndarray:
    log_p = LOGITS - np.log(np.exp(LOGITS).sum(axis=1, keepdims=True))
    return -(((1 - smoothing) * q + smoothing / 4) * log_p).sum(axis=1)


def score(y: np.ndarray, smoothing: float) -> np.ndarray:
    batch = Batch({"x": torch.zeros(6, 1), "y": torch.from_numpy(y)})
    return CrossEntropy(label_smoothing=smoothing).score(torch.from_numpy(LOGITS), batch).numpy()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_labels(smoothing: float) -> None:
    np.testing.assert_allclose(score(LABELS, smoothing), by_hand(np.eye(4)[LABELS], smoothing), rtol=1e-10)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_probabilities(smoothing: float) -> None:
    q = np.random.default_rng(1).dirichlet(np.ones(4), 6)
    np.testing.assert_allclose(score(q, smoothing), by_hand(q, smoothing), rtol=1e-10)


def test_gradient_is_the_softmax_minus_the_smoothed_target() -> None:
    logits = torch.from_numpy(LOGITS).requires_grad_()
    batch = Batch({"x": torch.zeros(6, 1), "y": torch.from_numpy(LABELS)})
    (gradient,) = torch.autograd.grad(CrossEntropy(label_smoothing=0.2).score(logits, batch).sum(), logits)
    expected = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True) - (0.8 * np.eye(4)[LABELS] + 0.05)
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-8)


def test_label_maps_and_tokens_are_averaged_over_what_counts() -> None:
    rng = torch.Generator().manual_seed(0)
    maps, tokens = torch.randn(2, 3, 2, 4, generator=rng), torch.randn(2, 5, 3, generator=rng)
    y = torch.randint(3, (2, 2, 4), generator=rng)
    y[0, 0, 0] = -1
    expected = [
        -sum(float(maps[i].log_softmax(0)[y[i, r, c], r, c]) for r in range(2) for c in range(4) if y[i, r, c] >= 0)
        / (7 if i == 0 else 8)
        for i in range(2)
    ]
    found = CrossEntropy().score(maps, Batch({"y": y}))
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    y = torch.tensor([[0, 1, 2, 1, 0], [-1, -1, 2, -1, -1]])
    whole = [-float(tokens[0, t].log_softmax(0)[y[0, t]]) for t in range(5)]
    found = CrossEntropy().score(tokens, Batch({"y": y}))
    assert found.tolist() == pytest.approx([sum(whole) / 5, -float(tokens[1, 2].log_softmax(0)[2])], rel=1e-5)
