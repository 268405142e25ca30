"""Abdelfattah et al. 2021: it ranks networks before their training as their accuracies do after it.

Not reproduced: in these spaces it ranks them no better than chance, or the other way round.
"""

from __future__ import annotations

from typing import Any

import pytest
from scipy.stats import spearmanr

CHANCE = 0.21
"""What 64 networks in random order correlate at most, nineteen times in twenty."""


@pytest.mark.claim
@pytest.mark.slow
def test_networks_that_score_higher_are_not_reliably_more_accurate_after_training(spaces: list[Any]) -> None:
    found = [float(spearmanr(space.metric("grasp"), space.accuracy).statistic) for space in spaces]
    assert min(found) < CHANCE
