"""Batches with equally many examples of each domain."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from assay.plugins.contract import BadInput, Batches, Card, Context, Field, Split


def endless(members: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """The first `count` of the members in a random order, then in another, and so on."""
    rounds = -(-count // len(members))
    return torch.cat([members[torch.randperm(len(members), generator=rng)] for _ in range(rounds)])[:count]


class PerDomain(Batches):
    """Batches of size / domains examples of each domain, which the field `group` numbers.

    An epoch shows each example of the largest domain once, but for what does not fill a last batch; smaller
    domains start again in a new order. Data without `group` are one domain.
    """

    card = Card(title="Equally many examples of each domain in a batch")
    size: int = Field(128, ge=1, description="examples in a batch, all domains together")

    def epoch(self, data: Split, ctx: Context) -> Iterable[Tensor]:
        """int64 index tensors, the domains' parts in the order of their numbers. Raises BadInput as `steps`."""
        steps, members = self.steps(data), domains(data)
        each = min(self.size // len(members), max(map(len, members)))
        orders = [endless(part, steps * each, ctx.rng) for part in members]
        return [torch.cat(parts) for parts in zip(*(order.chunk(steps) for order in orders), strict=True)]

    def steps(self, data: Split) -> int:
        """Batches in an epoch. Raises BadInput where a batch is too small to have every domain."""
        members = domains(data)
        each = self.size // len(members)
        if not each:
            raise BadInput(
                f"train.batches.size: {self.size} is less than one example of each of {len(members)} domains"
            )
        return max(1, max(map(len, members)) // each)


def domains(data: Split) -> list[Tensor]:
    """Each domain's examples, in the order of their numbers."""
    group = np.asarray(data.fields.get("group", np.zeros(len(data), np.int64)))
    return [torch.from_numpy(np.flatnonzero(group == value)) for value in np.unique(group)]
