"""The Fréchet distance rises with each increase of a disturbance (arxiv:1706.08500, figure 3)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_digits

from assay.plugins.evaluate.generation.frechet import frechet

AMOUNTS = (0.0, 0.25, 0.5, 1.0)


def noise(x: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    return x + 0.5 * amount * rng.standard_normal(x.shape)


def blur(x: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    return gaussian_filter(x, (0, 2 * amount, 2 * amount))


def swap(x: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """A share of the pixels of each image among themselves."""
    out = x.reshape(len(x), -1).copy()
    for row in out:
        at = rng.permutation(64)[: round(64 * amount)]
        row[at] = row[rng.permutation(at)]
    return out.reshape(x.shape)


@pytest.mark.claim
@pytest.mark.parametrize("disturb", [noise, blur, swap])
@pytest.mark.parametrize("seed", range(3))
def test_more_disturbance_is_farther(disturb, seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = load_digits().images[rng.permutation(1797)] / 16
    real, other = torch.from_numpy(images[:898].reshape(898, -1)), images[898:1796]
    found = [frechet(torch.from_numpy(disturb(other, a, rng).reshape(898, -1)), real) for a in AMOUNTS]
    assert all(a < b for a, b in itertools.pairwise(found))
    assert found[-1] > 5 * found[0]
