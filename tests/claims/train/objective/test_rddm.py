"""A U-Net with the l1 loss alone against DnCNN (arxiv:2308.13712)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from assay.plugins.contract import Batch, Context, DataSpec
from assay.plugins.prepare.transform.degrade import gaussian_blur
from assay.plugins.train.model.dncnn import DnCNN
from assay.plugins.train.model.rddm_unet import RDDMUNet
from assay.plugins.train.objective.rddm import RDDM

CLEAN = torch.from_numpy(load_digits().images).float().unsqueeze(1) / 16
SPEC, CUT = DataSpec(problem="restoration", shape=(1, 8, 8)), 1300


def psnr(images: Tensor) -> float:
    return float((-10 * torch.log10((images - CLEAN[CUT:]).square().flatten(1).mean(1))).mean())


def batches(x: Tensor, seed: int) -> Iterator[Batch]:
    rng = torch.Generator().manual_seed(seed)
    for _ in range(12):
        for at in torch.randperm(CUT, generator=rng).split(64):
            yield Batch({"index": at, "x": x[at], "y": CLEAN[at]})


def trained(model: nn.Module, x: Tensor, seed: int, loss: Callable[[nn.Module, Batch], Tensor]) -> float:
    """The PSNR of the model's own pass on test images."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for batch in batches(x, seed):
        optimizer.zero_grad()
        loss(model, batch).mean().backward()
        optimizer.step()
    with torch.no_grad():
        return psnr(model.eval()(x[CUT:]))


@pytest.mark.claim
@pytest.mark.slow
def test_the_l1_loss_alone_comes_close_to_a_network_for_restoration() -> None:
    behind = []
    for seed in range(3):
        x = CLEAN + 0.15 * torch.randn(CLEAN.shape, generator=torch.Generator().manual_seed(seed))
        if seed == 2:
            x = gaussian_blur(CLEAN, 1.0)
        ctx = Context(rng=torch.Generator().manual_seed(seed), spec=SPEC)
        torch.manual_seed(seed)
        ours = trained(RDDMUNet(width=16).build(SPEC, ctx), x, seed, lambda m, b, c=ctx: RDDM().loss(m, b, c))
        other = trained(DnCNN(depth=5, width=24).build(SPEC, ctx), x, seed, lambda m, b: (m(b.x) - b.y).square())
        assert ours > psnr(x[CUT:]) + 3, (seed, ours)  # found: 3.7 and 4.1 for noise, 9.0 for blur
        behind.append(other - ours)
    assert np.mean(behind) < 1.5, behind  # found: 0.0 and 0.5 for noise, 2.9 for blur
