"""Abdelfattah et al. 2021: it ranks networks before their training as their accuracies do after it."""

from __future__ import annotations

from typing import Any

import pytest
from scipy.stats import spearmanr


@pytest.mark.claim
@pytest.mark.slow
def test_networks_that_score_higher_are_more_accurate_after_training(spaces: list[Any]) -> None:
    for space in spaces:
        correlation = float(spearmanr(space.metric("fisher"), space.accuracy).statistic)
        print(f"fisher {correlation:.2f}, parameters {spearmanr(space.parameters, space.accuracy).statistic:.2f}")
        assert correlation > 0.21  # 64 networks in random order do so one time in twenty
