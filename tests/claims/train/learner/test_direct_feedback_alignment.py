"""Direct feedback alignment trains hidden layers: its updates turn towards the gradient, and the network is nearly as
accurate as with backpropagation, which one with random hidden layers is not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from assay.plugins.train.learner import _common
from assay.plugins.train.learner.backprop import Backprop
from assay.plugins.train.learner.direct_feedback_alignment import DirectFeedbackAlignment, differentiate


def angles(state, batch) -> list[float]:
    """Degrees between feedback and gradient of the two hidden layers' weights."""
    sent, true = (f(state, batch, None).grads for f in (differentiate, _common.differentiate))
    pairs = [(sent[i].flatten(), true[i].flatten()) for i in (0, 2)]
    return [float(torch.rad2deg(torch.cosine_similarity(a, b, dim=0).arccos())) for a, b in pairs]


@pytest.mark.claim
def test_nearly_as_accurate_as_backprop_and_aligned(train, digits):
    batch = digits.train.batch(slice(0, 500))

    def model() -> nn.Module:
        return train.chain(64, 128, 128, outputs=10, act=nn.Tanh)

    def random_features() -> nn.Module:
        found = model()
        found.layers.requires_grad_(False)
        return found

    for seed in range(3):
        aligned = train(DirectFeedbackAlignment(), model, digits, seed, epochs=10)
        true = train(Backprop(), model, digits, seed, epochs=10)
        head = train(Backprop(), random_features, digits, seed, epochs=10)
        # found: 0.927 to 0.932 against 0.957 to 0.964, and 0.807 to 0.857 with the head alone
        assert aligned.accuracy() > true.accuracy() - 0.05
        assert aligned.accuracy() > head.accuracy() + 0.04
        # found: 44 to 56 degrees
        assert max(angles(aligned.state, batch)) < 70
        fresh = train(DirectFeedbackAlignment(), model, digits, seed, epochs=0)
        assert min(angles(fresh.state, batch)) > 75
