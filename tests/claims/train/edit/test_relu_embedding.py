"""Symmetric neural collapse (arxiv:2306.07960): class means of unbalanced digits under the supervised contrastive
loss, with and without a ReLU, and with and without bound batches."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from assay.plugins.contract import Context, Data, DataSpec, Split
from assay.plugins.prepare.source.digits import digits_table
from assay.plugins.train.batches.class_bound import ClassBound
from assay.plugins.train.batches.shuffled import Shuffled
from assay.plugins.train.edit.relu_embedding import ReluEmbedding
from assay.plugins.train.model.mlp import MLP
from assay.plugins.train.objective.supervised_contrastive import SupervisedContrastive

SPEC = DataSpec(problem="representation", shape=(1, 8, 8), classes=tuple("01234"), outputs=32)
COUNTS = (150, 150, 15, 15, 15)


def unbalanced(seed: int) -> Data:
    table = np.random.default_rng(seed).permutation(digits_table())
    rows = np.concatenate([table[table[:, 64] == kind][:count] for kind, count in enumerate(COUNTS)])
    split = Split({"x": (rows[:, :64] / 16).astype(np.float32).reshape(-1, 1, 8, 8), "y": rows[:, 64].astype(np.int64)})
    return Data(SPEC, {"train": split, "test": split})


@functools.cache
def distance(seed: int, relu: bool, bound: bool, size: int, epochs: int) -> float:
    """How far the class means' Gram matrix is from a multiple of the identity: |G / |G| - I / sqrt(C)|."""
    data = unbalanced(seed)
    ctx = Context(rng=torch.Generator().manual_seed(seed), spec=SPEC)
    torch.manual_seed(seed)
    model: nn.Module = MLP(hidden=(64, 64)).build(SPEC, ctx)
    if relu:
        edit = ReluEmbedding()
        model = edit.apply(model, edit.fit(model, data, ctx))
    batches = ClassBound(size=size) if bound else Shuffled(size=size)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for index in batches.epoch(data.train, ctx):
            ctx.shared.clear()
            optimizer.zero_grad()
            SupervisedContrastive().loss(model, data.train.batch(index.numpy()), ctx).mean().backward()
            optimizer.step()
    whole = data.train.batch(slice(0, len(data.train)))
    with torch.no_grad():
        unit = F.normalize(model(whole.x), dim=1)
    means = torch.stack([unit[whole.y == kind].mean(0) for kind in range(len(COUNTS))])
    gram = means @ means.T
    return float((gram / gram.norm() - torch.eye(len(COUNTS)) / len(COUNTS) ** 0.5).norm())


@pytest.mark.claim
@pytest.mark.slow
def test_a_relu_makes_class_means_of_unbalanced_data_orthogonal() -> None:
    for seed in range(3):
        plain, rectified = (distance(seed, relu, False, 64, 60) for relu in (False, True))
        assert rectified < plain / 2  # found: 0.54 to 0.61 against 0.05 to 0.18
