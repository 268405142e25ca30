"""Barriers between models of one weight, whose losses are parabolas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from assay.plugins.contract import Ask, BadInput, Batch, Context, Data, DataSpec, Split, Trained
from assay.plugins.study._common import barrier, mixed
from assay.plugins.study.mode_connectivity import ModeConnectivity, layers_of

SPEC = DataSpec(problem="regression", modality="features", shape=(1,), outputs=1)
SPLIT = Split({"x": np.ones((2, 1), np.float32), "y": np.ones((2, 1), np.float32)})


class Pair(nn.Module):
    """x -> a * b * x: (1, 1) and (-1, -1) are both solutions for y = x, and (0, 0) between them is none."""

    def __init__(self, a: float, b: float):
        super().__init__()
        self.layers, self.head = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        with torch.no_grad():
            self.layers.weight.fill_(a)
            self.head.weight.fill_(b)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.layers(x))
        return out


class Known:
    """A lab whose two trainings of a pair are mirror images where they share nothing, and equal otherwise."""

    def __init__(self) -> None:
        self.data = Data(SPEC, {"train": SPLIT, "test": SPLIT})
        self.asked: list[Ask] = []

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        return (output - batch.y).square().mean(1)

    def train(self, asks: Sequence[Ask]) -> list[Trained]:
        self.asked += asks
        signs = [1.0 if ask.start is not None or i % 2 == 0 else -1.0 for i, ask in enumerate(asks)]
        return [Trained(Pair(s, s), [], lambda name: Pair(0, 0), [], self.data) for s in signs]


def test_the_barrier_is_what_rises_above_the_line_between_the_ends() -> None:
    alphas = np.array([0.0, 0.5, 1.0])
    assert barrier(np.array([1.0, 5.0, 3.0]), alphas) == 3.0
    assert barrier(np.array([1.0, 0.0, 3.0]), alphas) == 0.0  # at both ends it is 0


def test_weights_between_two_models_all_or_of_one_layer() -> None:
    a, b = Pair(1, 3), Pair(-1, 5)
    half = mixed(a, b, 0.5)
    assert (float(half.layers.weight), float(half.head.weight)) == (0.0, 4.0)
    one = mixed(a, b, 1.0, only=layers_of(a)["head"])
    assert (float(one.layers.weight), float(one.head.weight)) == (1.0, 5.0)
    assert float(a.head.weight) == 3.0


def test_pairs_that_part_have_no_barrier_and_mirror_images_have_one() -> None:
    lab: Any = Known()
    ctx = Context(rng=torch.Generator(), spec=SPEC, seed=3)
    method = ModeConnectivity(epochs=5, parts=(0, 2), pairs=2, points=5)
    result, verdict = method.study(lab, ctx)
    # On the way from (1, 1) to (-1, -1) the product is (1 - 2a)^2; at a = 1/2 the loss is 1.
    assert result.arrays["barrier"].tolist() == pytest.approx([1.0, 0.0, 0.0])
    assert result.arrays["shared_epochs"].tolist() == [-1, 0, 2]
    # One layer alone from 1 to -1: the loss goes from 0 to 4 by (2a)^2, never above the straight line.
    assert result.arrays["layer_barrier"].tolist() == pytest.approx([0.0, 0.0])
    assert "share nothing are 1 apart" in verdict
    apart, parted = lab.asked[:4], lab.asked[4:]
    assert [a.seed for a in apart] == [3, 4, 1003, 1004]
    assert [(a.start.changes["epochs"], a.start.seed, a.changes["epochs"], a.seed) for a in parted] == [
        (0, 3, 5, 5), (0, 3, 5, 6), (0, 1003, 5, 1005), (0, 1003, 5, 1006),
        (2, 3, 3, 5), (2, 3, 3, 6), (2, 1003, 3, 1005), (2, 1003, 3, 1006),
    ]  # fmt: skip
    lab.loss = None
    with pytest.raises(BadInput, match="objective"):
        method.study(lab, ctx)
