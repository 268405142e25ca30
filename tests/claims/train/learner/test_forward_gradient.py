"""Forward gradients minimise the loss without a backward pass, given more steps than backpropagation takes."""

from __future__ import annotations

import pytest
from torch import nn

from assay.plugins.train.learner.backprop import Backprop
from assay.plugins.train.learner.forward_gradient import ForwardGradient
from assay.plugins.train.optimizer.adamw import AdamW
from assay.plugins.train.optimizer.sgd import SGD


@pytest.mark.claim
@pytest.mark.slow
def test_learns_in_more_steps_than_backprop_takes(train, digits):
    def logistic() -> nn.Module:
        return train.chain(64, outputs=10)

    def deep() -> nn.Module:
        return train.chain(64, 32, outputs=10)

    for seed in range(3):
        slow = train(ForwardGradient(), logistic, digits, seed, epochs=60, optimizer=SGD(lr=0.03, momentum=0))
        fast = train(Backprop(), logistic, digits, seed, epochs=30, optimizer=SGD(lr=0.03, momentum=0))
        # found: 0.56 to 0.68 against 0.80, at accuracies of 0.81 to 0.87 and 0.90 to 0.91
        assert slow.loss() < fast.loss()
        assert slow.accuracy() > 0.75
        learned = train(ForwardGradient(), deep, digits, seed, epochs=100, optimizer=AdamW(lr=0.01))
        assert learned.accuracy() > 0.75  # found: 0.80 to 0.85
        more = train(ForwardGradient(directions=8), deep, digits, seed, epochs=15, optimizer=AdamW(lr=0.01))
        less = train(ForwardGradient(), deep, digits, seed, epochs=15, optimizer=AdamW(lr=0.01))
        assert more.loss() < 0.7 * less.loss()  # found: 0.68 to 0.75 against 1.55 to 1.80
