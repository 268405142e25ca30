"""Random search: trainings at points drawn from the space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from assay.plugins.contract import Card, Context, Field, Lab, Result, Search
from assay.plugins.search._common import SPLIT, attempt, best, error_number, points, table


def draw(count: int, most: int, rng: torch.Generator) -> list[int]:
    """`most` of the numbers below `count`, each as likely, without replacement; all where there are fewer."""
    drawn: list[int] = torch.randperm(count, generator=rng)[:most].tolist()
    return drawn


class RandomSearch(Search):
    """Trains the recipe at points of the space that are drawn uniformly, and takes the lowest validation error.

    The split `validation` is what a share of the training examples is set apart as, unless the data have one; the
    test split is not looked at.
    """

    card = Card(
        title="Random Search for Hyper-Parameter Optimization",
        paper="Bergstra & Bengio, Journal of Machine Learning Research 13 (2012), 281-305",
        claim="Where few of the paths matter, random points find a lower error than a grid of as many points.",
        verdict="reproduced",
    )
    queries: int = Field(20, ge=1, le=5000, description="trainings; none is asked for twice")
    validation: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="share of the training examples to set apart, where the data have no such split",
    )

    def uses(self) -> Sequence[str]:
        return (SPLIT,)

    def search(self, space: Mapping[str, Sequence[Any]], lab: Lab, ctx: Context) -> tuple[Mapping[str, Any], Result]:
        """The best point, and the table of what was tried."""
        every = points(space, 100_000)
        chosen = [every[i] for i in draw(len(every), self.queries, ctx.rng)]
        tried = attempt(lab, chosen, self.validation)
        return best(tried).point, Result({"validation_error": error_number(tried)}, table(tried))
