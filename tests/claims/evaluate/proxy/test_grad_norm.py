"""Abdelfattah et al. 2021: it ranks networks before their training as their accuracies do after it.

In these spaces the number of parameters, which costs nothing to know, ranks them better still.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

CHANCE = 0.21
"""What 64 networks in random order correlate at most, nineteen times in twenty."""


@pytest.mark.claim
@pytest.mark.slow
def test_networks_that_score_higher_are_more_accurate_after_training(spaces: list[Any]) -> None:
    found = [float(spearmanr(space.metric("grad_norm"), space.accuracy).statistic) for space in spaces]
    size = [float(spearmanr(space.parameters, space.accuracy).statistic) for space in spaces]
    assert min(found) > CHANCE  # found: 0.72, 0.45, 0.64
    assert np.mean(found) < np.mean(size)  # found: 0.73, 0.80, 0.75
