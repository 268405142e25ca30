"""Betti matching error (arxiv:2211.15272): features moved away keep their number, not their place."""

from __future__ import annotations

import numpy as np
import pytest

from assay.plugins.evaluate.topology.betti_matching import errors


def rings(places: list[tuple[int, int]]) -> np.ndarray:
    """Rings of 4 x 4 pixels on a canvas of 20 x 20."""
    image = np.zeros((20, 20), dtype=bool)
    for top, left in places:
        image[top : top + 4, left : left + 4] = True
        image[top + 1 : top + 3, left + 1 : left + 3] = False
    return image


@pytest.mark.claim
def test_moved_features_are_counted_and_a_shift_by_a_pixel_is_not() -> None:
    cells = [(top, left) for top in (1, 8, 15) for left in (1, 8, 15)]
    for seed in range(5):
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(cells))
        true = rings([cells[i] for i in order[:3]])
        moved = rings([*(cells[i] for i in order[:2]), cells[order[3]]])
        shifted = rings([(top + 1, left) for top, left in (cells[i] for i in order[:3])])
        unmatched, difference = errors(moved, true)
        assert difference == [0, 0]
        assert sum(unmatched) >= 2
        assert errors(shifted, true)[0] == [0, 0]
