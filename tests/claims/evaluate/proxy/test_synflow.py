"""Abdelfattah et al. 2021: it ranks networks before their training as their accuracies do after it.

It does so better than the number of parameters, which costs nothing to know.
"""

from __future__ import annotations

from typing import Any

import pytest
from scipy.stats import spearmanr

CHANCE = 0.21
"""What 64 networks in random order correlate at most, nineteen times in twenty."""


@pytest.mark.claim
@pytest.mark.slow
def test_networks_that_score_higher_are_more_accurate_after_training(spaces: list[Any]) -> None:
    found = [float(spearmanr(space.metric("synflow"), space.accuracy).statistic) for space in spaces]
    size = [float(spearmanr(space.parameters, space.accuracy).statistic) for space in spaces]
    assert min(found) > CHANCE
    assert all(one > other for one, other in zip(found, size, strict=True))
