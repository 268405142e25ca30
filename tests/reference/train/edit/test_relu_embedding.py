"""The rectified embedding is the plain one, cut off at zero."""

from __future__ import annotations

import copy

import torch

from assay.plugins.contract import Context, DataSpec, Record
from assay.plugins.train.edit.relu_embedding import ReluEmbedding
from assay.plugins.train.model.mlp import MLP


def test_what_is_negative_becomes_zero() -> None:
    spec = DataSpec(problem="representation", shape=(5,), classes=("a", "b"), outputs=7)
    model = MLP(hidden=(6,)).build(spec, Context(rng=torch.Generator(), spec=spec))
    before = copy.deepcopy(model.state_dict())
    new = ReluEmbedding().apply(model, Record())
    x = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    plain = model(x)
    assert bool((plain < 0).any())
    assert torch.equal(new(x), plain.clamp_min(0))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
