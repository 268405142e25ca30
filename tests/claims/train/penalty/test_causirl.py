"""CausIRL in a domain whose offset was not trained on: features that move with the domain are used less.

On 8 x 8 digits with styles (an added pattern, contrast and brightness) no gain showed over three seeds: with MMD at
weight 1 the unseen style's accuracy is 0.92 to 0.95 against 0.89 to 0.94 for the pattern, and training
collapses for contrast; at weight 10 it collapses for both.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.plugins.contract import Bound, Context, Data, DataSpec, Penalty, Split, Terms
from assay.plugins.train.batches.per_domain import PerDomain
from assay.plugins.train.learner.backprop import Backprop
from assay.plugins.train.objective.cross_entropy import CrossEntropy
from assay.plugins.train.optimizer.adamw import AdamW
from assay.plugins.train.penalty.causirl import CausIRL
from assay.plugins.train.schedule.constant import Constant

SPEC = DataSpec(modality="features", shape=(5,), classes=("a", "b"))
EACH = 300


class Network(nn.Module):
    """Two hidden layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
        self.head = nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x))


def domain(n: int, offset: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Three noisy features of the class alone, and two clearer ones that the domain's offset moves."""
    y = rng.integers(0, 2, n)
    sign = (2 * y - 1)[:, None]
    stable = 0.7 * sign + rng.normal(size=(n, 3))
    moving = sign + offset + 0.5 * rng.normal(size=(n, 2))
    return np.concatenate([stable, moving], axis=1).astype(np.float32), y


def unseen_accuracy(penalties: list[Penalty], seed: int) -> float:
    """Trained on offsets -4, 0 and 4; the accuracy at 8."""
    rng = np.random.default_rng(seed)
    parts = [domain(EACH, offset, rng) for offset in (-4, 0, 4)]
    x_test, y_test = domain(1000, 8, rng)
    x, y = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    split = Split({"x": x, "y": y, "group": np.repeat(range(3), EACH)})

    def bind(method: object, name: str) -> Bound:
        return Bound(method, Context(rng=torch.Generator().manual_seed(seed), spec=SPEC), name)

    torch.manual_seed(seed)
    model, learner = Network(), Backprop()
    own = [bind(method, f"penalty.{i}") for i, method in enumerate(penalties)]
    terms = Terms(bind(CrossEntropy(), "objective"), own, [], AdamW(lr=2e-3), Constant(), total_steps=1)
    state = learner.init(model, terms, Data(SPEC, {"train": split}), terms.objective.ctx)
    batches = bind(PerDomain(size=96), "batches")
    for _ in range(40):
        for at in batches.method.epoch(split, batches.ctx):
            learner.step(state, split.batch(at), terms.objective.ctx)
    with torch.no_grad():
        return (model(torch.from_numpy(x_test)).argmax(dim=1) == torch.from_numpy(y_test)).float().mean().item()


@pytest.mark.claim
@pytest.mark.slow
def test_more_accurate_at_an_offset_that_was_not_trained_on():
    plain = [unseen_accuracy([], seed) for seed in range(5)]
    matched = [unseen_accuracy([CausIRL()], seed) for seed in range(5)]
    assert np.mean(matched) > np.mean(plain) + 0.03  # found: 0.80 against 0.65, higher in each
    assert sum(a > b for a, b in zip(matched, plain, strict=True)) >= 4
