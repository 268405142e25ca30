"""Two views: a copy, then moved apart by crops and mixed alike by mixup; label maps move with their image."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from assay.plugins.contract import Batch, Context, DataSpec
from assay.plugins.train.augment.crop_flip import CropFlip
from assay.plugins.train.augment.mixup import Mixup
from assay.plugins.train.augment.two_views import TwoViews

SPEC = DataSpec(shape=(1, 6, 6), classes=("a", "b", "c"))


def context(seed: int = 0) -> Context:
    return Context(rng=torch.Generator().manual_seed(seed), spec=SPEC)


def batch(count: int = 40) -> Batch:
    x = torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(1)) + 0.5
    return Batch({"index": torch.arange(count), "x": x, "y": torch.arange(count) % 3})


def test_crops_move_the_views_apart_and_the_first_as_without_a_second() -> None:
    single = CropFlip(padding=2, flip=0).augment(batch(), context())
    both = CropFlip(padding=2, flip=0).augment(TwoViews().augment(batch(), context()), context())
    assert torch.equal(both.x, single.x)
    same = (both.x == both.x2).flatten(1).all(1)
    assert float(same.float().mean()) < 0.2  # 25 places: 1 in 25 by chance
    for view, original in zip(both.x2, batch().x, strict=True):
        shifts = [
            torch.roll(F.pad(original, (2, 2, 2, 2)), (-top, -left), (1, 2))[:, :6, :6]
            for top in range(5)
            for left in range(5)
        ]
        assert any(torch.equal(view, shift) for shift in shifts)


def test_mixup_mixes_both_views_by_the_same_partners_and_shares() -> None:
    given = batch(6)
    given = given.replace(x2=given.x + 10)
    mixed = Mixup(alpha=1.0).augment(given, context())
    assert torch.allclose(mixed.x2, mixed.x + 10, atol=1e-5)
    assert torch.allclose(mixed.x, Mixup(alpha=1.0).augment(batch(6), context()).x)
    assert torch.equal(mixed.y, Mixup(alpha=1.0).augment(batch(6), context()).y)


def test_label_maps_move_with_their_image() -> None:
    x = torch.rand(30, 1, 6, 6, generator=torch.Generator().manual_seed(2))
    y = (x[:, 0] * 3).long()
    moved = CropFlip(padding=2).augment(Batch({"index": torch.arange(30), "x": x, "y": y}), context())
    assert torch.equal(moved.y, (moved.x[:, 0] * 3).long())  # what is filled up is 0 in both
    assert moved.y.dtype == torch.int64
