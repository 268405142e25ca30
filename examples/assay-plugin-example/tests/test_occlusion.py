"""Occlusion by hand, and the paper's effect in miniature."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from assay_plugin_example.saliency.occlusion import Occlusion, starts
from torch import nn

from assay.plugins.contract import Batch, Context, DataSpec
from assay.plugins.testing.worlds import World, gray_images, train_steps


def context(spec: DataSpec, **more: int) -> Context:
    return Context(rng=torch.Generator().manual_seed(0), spec=spec, **more)


def by_hand(x: np.ndarray, weight: np.ndarray, size: int, stride: int, colour: np.ndarray) -> np.ndarray:
    """One image (C, H, W) and a linear score, place after place."""
    _, height, width = x.shape
    total, count = np.zeros((height, width)), np.zeros((height, width))
    for top in starts(height, size, stride):
        for left in starts(width, size, stride):
            covered = x.copy()
            covered[:, top : top + size, left : left + size] = colour[:, None, None]
            drop = (weight * x).sum() - (weight * covered).sum()
            total[top : top + size, left : left + size] += drop
            count[top : top + size, left : left + size] += 1
    return total / count


@pytest.mark.parametrize(("size", "stride", "fill"), [(1, 1, 0.0), (3, 1, 0.5), (3, 2, 1.0), (4, 3, 0.25)])
def test_a_linear_score_place_after_place(size: int, stride: int, fill: float) -> None:
    spec = DataSpec(shape=(2, 6, 5), classes=("a",), low=(-1.0, 0.0), high=(1.0, 4.0), scale=(1.0, 1.0))
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(3, 2, 6, 5)), rng.normal(size=(2, 6, 5))
    head = nn.Linear(60, 1, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor(weight).reshape(1, -1))
    model = nn.Sequential(nn.Flatten(), head)
    batch = Batch({"index": torch.arange(3), "x": torch.tensor(x, dtype=torch.float32)})
    found = Occlusion(size=size, stride=stride, fill=fill).attribute(
        model, batch, lambda prediction, batch: prediction[:, 0], context(spec, batch_limit=7)
    )
    colour = np.array([-1 + 2 * fill, 4 * fill])
    expected = np.stack([by_hand(image, weight, size, stride, colour) for image in x])
    assert found.over == "input"
    np.testing.assert_allclose(found.values.numpy(), expected, atol=1e-4)


def test_windows_reach_the_edge() -> None:
    assert starts(8, 3, 2) == [0, 2, 4, 5]
    assert starts(8, 8, 3) == [0]
    assert starts(7, 3, 2) == [0, 2, 4]


def hits(model: nn.Module, world: World) -> float:
    """The share of test images whose largest value lies on the object, which is 9 of 64 pixels."""
    batch = world.data.test.batch(slice(0, 24))
    with torch.no_grad():
        batch = batch.replace(target=model(batch.x).argmax(1))
    values = Occlusion().attribute(model, batch, world.score, context(world.data.spec)).values.flatten(1)
    return float(batch.mask.flatten(1).gather(1, values.argmax(1, keepdim=True)).float().mean())


@pytest.mark.claim
@pytest.mark.parametrize("seed", range(4))
def test_the_score_drops_most_where_the_object_is_covered(seed: int) -> None:
    world = gray_images()
    untrained, trained = world.fresh(seed), world.fresh(seed)
    train_steps(trained, world, seed, steps=40)
    # Found 0.71 to 0.96 for the trained models, 0 to 0.38 for the untrained ones; chance is 0.14.
    assert hits(trained, world) > 0.6
    assert hits(trained, world) > hits(untrained, world) + 0.2
