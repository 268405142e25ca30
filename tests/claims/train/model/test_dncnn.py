"""Predicting the residual against predicting the image (arxiv:1608.03981)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from assay.plugins.contract import Context, DataSpec
from assay.plugins.train.model.dncnn import DnCNN

SPEC = DataSpec(problem="restoration", shape=(1, 8, 8))


def psnr(seed: int, residual: bool) -> float:
    """Mean PSNR of denoised test digits."""
    clean = torch.from_numpy(load_digits().images).float().unsqueeze(1) / 16
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    torch.manual_seed(seed)
    model = DnCNN(depth=5, width=16, residual=residual).build(SPEC, Context(rng=torch.Generator(), spec=SPEC))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(2):
        for at in torch.randperm(1200).split(64):
            optimizer.zero_grad()
            (model(noisy[at]) - clean[at]).square().mean().backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        error = (model(noisy[1200:]) - clean[1200:]).square().flatten(1).mean(1)
    return float((-10 * torch.log10(error)).mean())


@pytest.mark.claim
def test_the_residual_is_sooner_learned_than_the_image() -> None:
    gains = [psnr(seed, True) - psnr(seed, False) for seed in range(3)]
    assert np.mean(gains) > 1.5, gains  # found: 3.5
