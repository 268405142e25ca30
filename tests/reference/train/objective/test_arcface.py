"""ArcFace's margin against cosines of sums of angles, its edges, and its centres."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.plugins.contract import Batch, Context, Data, DataSpec, Split
from assay.plugins.train.objective.arcface import ArcFace, Centres, angular_logits

SPEC = DataSpec(problem="representation", shape=(4,), classes=("a", "b", "c"), outputs=4)


def test_the_true_class_is_turned_away_by_the_margin() -> None:
    angle = torch.tensor([[0.3, 1.2, 2.0], [1.0, 2.5, 0.4]])
    found = angular_logits(angle.cos(), torch.tensor([0, 2]), margin=0.5, scale=10.0)
    expected = angle + torch.tensor([[0.5, 0, 0], [0, 0, 0.5]])
    assert torch.allclose(found, 10 * expected.cos(), atol=1e-5)


def test_the_logit_falls_all_the_way_to_the_opposite_side() -> None:
    angle = torch.linspace(0.01, math.pi - 0.01, 200)
    found = angular_logits(angle.cos()[:, None], torch.zeros(200, dtype=torch.int64), margin=0.5, scale=1.0)[:, 0]
    assert bool((found.diff() < 0).all())
    past = angle > math.pi - 0.5
    assert torch.allclose(found[past], angle[past].cos() - 0.5 * math.sin(0.5), atol=1e-5)


def context(own: nn.Module) -> Context:
    return Context(rng=torch.Generator(), spec=SPEC, own=own)


def test_without_a_margin_it_is_the_softmax_of_scaled_cosines() -> None:
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(6, 4, generator=rng), torch.tensor([0, 1, 2, 2, 1, 0])
    centres = Centres(3, 1, 4, rng)
    batch = Batch({"index": torch.arange(6), "x": x, "y": y})
    found = ArcFace(margin=0.0, scale=7.0).loss(nn.Identity(), batch, context(centres))
    cosine = torch.stack([F.cosine_similarity(x, w[None], dim=1) for w in centres.weight[:, 0]], dim=1)
    assert torch.allclose(found, F.cross_entropy(7 * cosine, y, reduction="none"), atol=1e-5)


def test_the_nearest_of_several_centres_counts() -> None:
    centres = Centres(3, 2, 4, torch.Generator())
    with torch.no_grad():
        centres.weight.copy_(torch.eye(4)[[0, 1, 2, 2, 3, 3]].reshape(3, 2, 4))
    batch = Batch({"index": torch.arange(2), "x": torch.eye(4)[:2] * 3, "y": torch.tensor([0, 0])})
    found = ArcFace(margin=0.5, scale=2.0, centres=2).loss(nn.Identity(), batch, context(centres))
    true = math.exp(2 * math.cos(0.5))
    assert found.tolist() == pytest.approx([-math.log(true / (true + 2))] * 2, rel=1e-4)


def test_centres_are_trained_and_of_the_embeddings_size() -> None:
    split = Split({"x": np.zeros((3, 4), np.float32), "y": np.arange(3)})
    ctx = Context(rng=torch.Generator().manual_seed(0), spec=SPEC)
    own = ArcFace(centres=3).init(nn.Identity(), Data(SPEC, {"train": split, "test": split}), ctx)
    assert [tuple(p.shape) for p in own.parameters()] == [(3, 3, 4)]
