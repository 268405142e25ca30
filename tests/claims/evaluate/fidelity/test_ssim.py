"""Distortions of one mean squared error are told apart (doi:10.1109/TIP.2003.819861)."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits

from assay.plugins.evaluate.fidelity.ssim import gaussian_window, similarity


@pytest.mark.claim
def test_a_shift_of_brightness_is_more_similar_than_noise_of_the_same_error() -> None:
    x = torch.from_numpy(load_digits().images[:300]).unsqueeze(1) / 16 * 0.8
    window = gaussian_window(7, 1.5)
    for seed in range(3):
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)
        noise *= 0.1 / noise.flatten(1).std(1, unbiased=False).view(-1, 1, 1, 1)
        noise -= noise.flatten(1).mean(1).view(-1, 1, 1, 1)
        noise *= 0.1 / noise.square().flatten(1).mean(1).sqrt().view(-1, 1, 1, 1)
        shifted, noisy = similarity(x + 0.1, x, window), similarity(x + noise, x, window)
        assert float((shifted > noisy).double().mean()) > 0.9
        assert float((shifted - noisy).mean()) > 0.01  # found: 0.971 and 0.950
