"""He et al. 2024: the combined metric is more robust than the metrics that it is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from assay.plugins.contract import Ask, Context, Data, DataSpec, Failed, Number, Result, Split, Trained
from assay.plugins.search.random_search import RandomSearch
from assay.plugins.search.robot import RoBoT

QUERIES, SEEDS = 10, 20
METRICS = ("grad_norm", "snip", "grasp", "fisher", "synflow", "jacob_cov")


@dataclass
class Known:
    """A lab that looks architectures up."""

    space: Any

    @property
    def data(self) -> Data:
        split = Split({"x": np.zeros((2, 1), np.float32), "y": np.zeros(2, np.int64)})
        return Data(DataSpec(shape=(1,), modality="features", classes=("a",)), {"train": split, "validation": split})

    def attempt(self, asks: Sequence[Ask]) -> list[Trained | Failed]:
        errors = [1 - float(self.space.accuracy[ask.changes["cell"]]) for ask in asks]
        return [
            Trained(nn.Identity(), [{"validation_error": e}], lambda _: nn.Identity(), (), self.data) for e in errors
        ]

    def measure(self, asks: Sequence[Ask], evaluators: Sequence[Any]) -> list[list[Result | Failed]]:
        rows = [self.space.metrics[ask.changes["cell"]] for ask in asks]
        return [[Failed("nan") if np.isnan(v) else Result({"score": Number(float(v))}) for v in row] for row in rows]


def found_by(method: RoBoT | RandomSearch, space: Any, ranks: np.ndarray) -> float:
    """The mean rank, over seeds, of the architecture that a search takes."""
    cells: Mapping[str, list[int]] = {"cell": list(range(len(ranks)))}
    found = []
    for seed in range(SEEDS):
        context = Context(rng=torch.Generator().manual_seed(seed), spec=DataSpec(shape=(1,)))
        changes, result = method.search(cells, Known(space), context)  # type: ignore[arg-type]
        assert len(result.arrays["query"]) == QUERIES
        found.append(ranks[changes["cell"]])
    return float(np.mean(found))


@pytest.mark.claim
@pytest.mark.slow
def test_it_finds_better_networks_than_the_single_metrics_on_average_and_than_random_search(spaces: list[Any]) -> None:
    worst, singles_worst = 0.0, np.zeros(len(METRICS))
    for space in spaces:
        ranks = np.argsort(np.argsort(-space.accuracy, kind="stable"), kind="stable") + 1
        singles = np.array([ranks[np.argsort(-space.metric(m), kind="stable")[:QUERIES]].min() for m in METRICS])
        combined = found_by(RoBoT(queries=QUERIES), space, ranks)
        random = found_by(RandomSearch(queries=QUERIES), space, ranks)
        assert combined < singles.mean()
        assert combined < random
        worst, singles_worst = max(worst, combined), np.maximum(singles_worst, singles)
    assert worst < singles_worst.mean()
