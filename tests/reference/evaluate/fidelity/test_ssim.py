"""Structural similarity window by window, and where it is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.plugins.contract import Batch, Context, Data, DataSpec, Split, Subject
from assay.plugins.evaluate.fidelity.ssim import SSIM, gaussian_window, similarity

RNG = np.random.default_rng(0)


def by_windows(a: np.ndarray, b: np.ndarray, side: int, sigma: float) -> float:
    """The paper's equations (13) to (16) for one channel, with loops."""
    at = np.arange(side) - side // 2
    w = np.exp(-(at[:, None] ** 2 + at[None, :] ** 2) / (2 * sigma**2))
    w /= w.sum()
    found = []
    for i in range(a.shape[0] - side + 1):
        for j in range(a.shape[1] - side + 1):
            p, q = a[i : i + side, j : j + side], b[i : i + side, j : j + side]
            mp, mq = (w * p).sum(), (w * q).sum()
            vp, vq, cov = (w * (p - mp) ** 2).sum(), (w * (q - mq) ** 2).sum(), (w * (p - mp) * (q - mq)).sum()
            c1, c2 = 0.01**2, 0.03**2
            found.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return float(np.mean(found))


@pytest.mark.parametrize(("side", "sigma"), [(11, 1.5), (5, 0.8)])
def test_by_windows(side: int, sigma: float) -> None:
    a, b = RNG.random((2, 3, 2, 14, 13))
    found = similarity(torch.from_numpy(a), torch.from_numpy(b), gaussian_window(side, sigma))
    expected = [np.mean([by_windows(a[i, c], b[i, c], side, sigma) for c in range(2)]) for i in range(3)]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_equal_and_constant_images() -> None:
    a = torch.from_numpy(RNG.random((2, 1, 12, 12)))
    window = gaussian_window(11, 1.5)
    torch.testing.assert_close(similarity(a, a, window), torch.ones(2, dtype=torch.float64))
    # Two constants differ in luminance alone: (2 * 0.2 * 0.6 + c1) / (0.04 + 0.36 + c1).
    flat = [torch.full((1, 1, 12, 12), v, dtype=torch.float64) for v in (0.2, 0.6)]
    assert float(similarity(*flat, window)) == pytest.approx((0.24 + 1e-4) / (0.4 + 1e-4))


def test_small_images_and_other_units() -> None:
    y, prediction = RNG.random((2, 3, 1, 8, 6))
    for mean, deviation in ((0.0, 1.0), (0.3, 0.2)):
        low, high = -mean / deviation, (1 - mean) / deviation
        spec = DataSpec(problem="restoration", shape=(1, 8, 6), low=(low,), high=(high,), scale=(1 / deviation,))
        split = Split({"x": y.astype(np.float32), "y": ((y - mean) / deviation).astype(np.float32)})

        def predict(batch: Batch, m: float = mean, d: float = deviation) -> Tensor:
            return torch.from_numpy((prediction - m) / d)[batch.index]

        subject = Subject(nn.Identity(), predict, spec, {"main": Data(spec, {"train": split, "test": split})})
        result = SSIM().evaluate(subject, Context(rng=torch.Generator(), spec=spec))
        expected = [by_windows(y[i, 0], prediction[i, 0], 5, 1.5) for i in range(3)]  # 5: the largest odd one in 6
        np.testing.assert_allclose(result.numbers["ssim"].each, expected, rtol=1e-4)
