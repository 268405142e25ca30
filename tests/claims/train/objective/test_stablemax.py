"""Without weight decay StableMax goes on to generalise on a sparse parity, where softmax stalls.

On small modular additions, the paper's first example, it did not show. One seed each, test accuracy of StableMax
at the end: modulus 31, half of the table, two hidden layers, 10,000 steps: 0.00; modulus 31, 0.6 of it, one layer,
10,000: 0.01; modulus 23, 0.6, one layer, 10,000: 0.01; modulus 23, 0.8, two layers, 6,000: 0.09; modulus 47,
0.6, two layers, 5,250: 0.04. The paper trains for up to 100,000 steps, modulus 113.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from assay.plugins.contract import Batch
from assay.plugins.train.objective.stablemax import StableMax

SEEN, BITS, PARITY = 400, 23, 3


def stable(output: Tensor, y: Tensor) -> Tensor:
    return StableMax().score(output, Batch({"x": output, "y": y})).mean()


def trained(loss, seed: int, steps: int) -> tuple[float, float, float]:
    """Accuracy on the training examples and on others, and the share of training examples whose softmax
    probability is exactly 1."""
    torch.manual_seed(seed)
    x = torch.randint(2, (SEEN + 2000, BITS)).float()
    y = x[:, :PARITY].sum(dim=1).long() % 2
    model = nn.Sequential(nn.Linear(BITS, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 2))
    # As the paper has it: nothing that Adam adds to its denominator may stand for a vanishing gradient.
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.9, 0.999), eps=1e-18, weight_decay=0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model(x[:SEEN]), y[:SEEN]).backward()
        optimizer.step()
    with torch.no_grad():
        output = model(x)
    right = (output.argmax(dim=1) == y).float()
    collapsed = F.softmax(output[:SEEN], dim=1).gather(1, y[:SEEN, None]) == 1
    return right[:SEEN].mean().item(), right[SEEN:].mean().item(), collapsed.float().mean().item()


@pytest.mark.claim
@pytest.mark.slow
def test_generalisation_goes_on_where_softmax_stalls():
    for seed in range(3):
        fit, early, _ = trained(F.cross_entropy, seed, 500)
        fitted, softmax, collapsed = trained(F.cross_entropy, seed, 2500)
        assert fit == fitted == 1.0
        assert collapsed > 0.2
        assert softmax < early + 0.05
        fitted, stablemax, _ = trained(stable, seed, 2500)
        assert fitted == 1.0
        assert stablemax > softmax + 0.1
