"""Decays tuned by implicit gradients: one for each weight lowers the validation loss below the best single value, and
few find their way from a bad start."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from assay.plugins.contract import Data
from assay.plugins.train.learner.backprop import Backprop
from assay.plugins.train.learner.implicit_diff import ImplicitDiff
from assay.plugins.train.optimizer.sgd import SGD

GRID = (0.0, 1e-5, 1e-4, 1e-3, 1e-2)


@pytest.mark.claim
@pytest.mark.slow
def test_many_decays_beat_the_best_single_one_on_validation_data(train, digits):
    train_part, held_out = (digits.train.take(at) for at in (np.arange(200), np.arange(200, 500)))
    data = Data(digits.spec, {"train": train_part, "validation": held_out, "test": digits.test})

    def model() -> nn.Module:
        return train.chain(64, outputs=10)

    def trained(learner, seed: int, weight_decay: float = 0.0):
        optimizer = SGD(lr=0.5, momentum=0.9, weight_decay=weight_decay)
        return train(learner, model, data, seed, epochs=200, optimizer=optimizer, size=100)

    for seed in range(3):
        fixed = [trained(Backprop(), seed, decay).loss("validation") for decay in GRID]
        many = trained(ImplicitDiff(per="weight", alpha=0.3, every=4, lr=0.1), seed)
        few = trained(ImplicitDiff(per="tensor", alpha=0.3, every=4, lr=0.1, start=1e-2), seed)
        # found: 0.162 to 0.175 against 0.255 to 0.257, and 0.266 to 0.267 against 0.522 to 0.531
        assert many.loss("validation") < 0.8 * min(fixed)
        assert few.loss("validation") < 0.8 * fixed[-1]
