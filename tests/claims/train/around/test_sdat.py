"""Domain adversarial training with the task loss smoothed, on digits and the same turned by 30 degrees.

Angle and radius were chosen after looking: at 20, 25 and 30 degrees, six seeds each, plain adversarial training has
0.77, 0.63 and 0.48 on average, SDAT at radius 0.1 0.77, 0.69 and 0.60. At the default radius, 0.05, four seeds gave
0.71 against 0.66 at 25 degrees and 0.34 against 0.43 at 35. That smoothing the adversarial loss too is worse did not
show: SAM on all terms, at radius 0.1, has 0.79, 0.71 and 0.63.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.plugins.contract import Around, Bound, Context, DataSpec, Terms
from assay.plugins.prepare.source.digits import Digits
from assay.plugins.prepare.transform.domain_shift import DomainShift
from assay.plugins.train.around.sdat import SDAT
from assay.plugins.train.batches.per_domain import PerDomain
from assay.plugins.train.learner.backprop import Backprop
from assay.plugins.train.model.mlp import MLP
from assay.plugins.train.objective.cross_entropy import CrossEntropy
from assay.plugins.train.optimizer.sgd import SGD
from assay.plugins.train.penalty.gradient_reversal import GradientReversal
from assay.plugins.train.schedule.constant import Constant

EPOCHS = 20


def target_accuracy(around: list[Around], seed: int) -> float:
    """On turned test digits, after adversarial training on labelled upright and unlabelled turned ones."""

    def bind(method: object, name: str) -> Bound:
        return Bound(method, Context(rng=torch.Generator().manual_seed(seed), spec=data.spec), name)

    ctx = Context(rng=torch.Generator().manual_seed(seed), spec=DataSpec(shape=(1, 8, 8)))
    data, shift = Digits().load(ctx), DomainShift(angle=30)
    data = shift.apply(data, shift.fit(data, ctx))
    torch.manual_seed(seed)
    model, learner, batches = (
        MLP(hidden=(64, 64)).build(data.spec, ctx),
        Backprop(),
        bind(PerDomain(size=64), "batches"),
    )
    total = EPOCHS * batches.method.steps(data.train)
    terms = Terms(
        bind(CrossEntropy(), "objective"),
        [bind(GradientReversal(), "penalty.0")],
        [bind(method, f"around.{i}") for i, method in enumerate(around)],
        SGD(lr=0.03),
        Constant(),
        total_steps=total,
    )
    state, step = learner.init(model, terms, data, ctx), 0
    for _ in range(EPOCHS):
        for at in batches.method.epoch(data.train, batches.ctx):
            terms.penalties[0].ctx.progress = step / total
            learner.step(state, data.train.batch(at), ctx)
            step += 1
    test = data.test.batch(slice(None))
    with torch.no_grad():
        return (model(test.x).argmax(dim=1) == test.y).float().mean().item()


@pytest.mark.claim
@pytest.mark.slow
def test_more_accurate_on_the_target_than_plain_adversarial_training():
    plain = [target_accuracy([], seed) for seed in range(12)]
    smooth = [target_accuracy([SDAT(rho=0.1)], seed) for seed in range(12)]
    assert np.mean(smooth) > np.mean(plain) + 0.05  # found: 0.61 against 0.49
