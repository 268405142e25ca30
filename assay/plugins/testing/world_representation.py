"""What methods of representations are tried on: the images of classification, to be embedded."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from assay.plugins.contract import Batch, Data, DataSpec
from assay.plugins.testing.worlds import World, blobs, tiny_net


def embedded() -> World:
    """One channel of bytes, embeddings of eight numbers."""
    spec = DataSpec(problem="representation", shape=(1, 8, 8), classes=("a", "b", "c"), outputs=8)
    data, other = (Data(spec, {"train": blobs(48, 1, seed), "test": blobs(24, 1, seed + 1)}) for seed in (0, 2))
    return World(
        "embeddings",
        "representation",
        data,
        other,
        target=lambda prediction: prediction.detach(),
        score_of=lambda prediction, target: prediction.norm(dim=1),
        network=tiny_net,
        loss=far_apart,
    )


def far_apart(output: Tensor, batch: Batch) -> Tensor:
    """How alike each example's embedding is to the others of its batch (N,)."""
    unit = F.normalize(output, dim=1)
    return torch.logsumexp(unit @ unit.T, dim=1)
