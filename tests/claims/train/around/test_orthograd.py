"""Without weight decay orthogonal gradients generalise on a modular addition, where plain ones do not.

This needs the right setting: with one hidden layer of 128 units at a learning rate of 0.003 (one seed) orthogonal
gradients fitted 0.58 of the training pairs in 10,000 steps and generalised to none.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.plugins.train.around.orthograd import orthogonal

MODULUS, SEEN = 31, 480


def accuracies(seed: int, project: bool, steps: int = 400) -> tuple[float, float]:
    """Training and test accuracy on a + b mod 31 from one-hot pairs, half of the table seen."""
    torch.manual_seed(seed)
    a, b = torch.cartesian_prod(torch.arange(MODULUS), torch.arange(MODULUS)).T
    x = torch.cat([F.one_hot(a, MODULUS), F.one_hot(b, MODULUS)], dim=1).float()
    y = (a + b) % MODULUS
    order = torch.randperm(MODULUS**2)
    seen, rest = order[:SEEN], order[SEEN:]
    model = nn.Sequential(
        nn.Linear(2 * MODULUS, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, MODULUS)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.9, 0.98), eps=1e-25, weight_decay=0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x[seen]), y[seen]).backward()
        if project:
            for p in model.parameters():
                p.grad = orthogonal(p.grad, p.detach())
        optimizer.step()
    with torch.no_grad():
        right = (model(x).argmax(dim=1) == y).float()
    return right[seen].mean().item(), right[rest].mean().item()


@pytest.mark.claim
@pytest.mark.slow
def test_orthogonal_gradients_generalise_without_weight_decay():
    for seed in range(3):
        plain, orthograd = accuracies(seed, False), accuracies(seed, True)
        assert plain[0] == orthograd[0] == 1.0
        assert plain[1] < 0.05
        assert orthograd[1] > 0.5
