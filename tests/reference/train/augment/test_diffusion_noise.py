"""The noised batch: levels recovered from it are those of the schedule, and each step is as likely."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.plugins.contract import Batch, Context, DataSpec
from assay.plugins.train.augment.diffusion_noise import DiffusionNoise


def test_examples_land_on_the_schedules_levels() -> None:
    steps, wide = 4, 20_000
    level = np.cos(np.pi / 2 * (np.arange(steps + 1) / steps + 0.008) / 1.008) ** 2
    bars = np.cumprod(1 - np.minimum(1 - level[1:] / level[:-1], 0.999))
    x = torch.ones(400, wide)
    batch = Batch({"index": torch.arange(400), "x": x, "y": torch.arange(400)})
    ctx = Context(rng=torch.Generator().manual_seed(0), spec=DataSpec(shape=(wide,)))
    found = DiffusionNoise(noise_steps=steps, schedule="cosine").augment(batch, ctx)
    assert torch.equal(found.y, batch.y)
    assert torch.equal(batch.x, x)
    means, deviations = found.x.mean(dim=1).numpy(), found.x.std(dim=1).numpy()
    nearest = np.abs(means[:, None] - np.sqrt(bars)).argmin(axis=1)
    np.testing.assert_allclose(means, np.sqrt(bars)[nearest], atol=0.04)
    np.testing.assert_allclose(deviations, np.sqrt(1 - bars)[nearest], atol=0.03)
    shares = np.bincount(nearest, minlength=4) / 400
    assert shares == pytest.approx(np.full(4, 0.25), abs=0.12)
