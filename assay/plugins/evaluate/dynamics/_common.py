"""What evaluators of a training's course share: its checkpoints, its losses, a seeded part of a split."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from assay.plugins.contract import Context, NotAuditable, Split, Subject


def course(subject: Subject) -> list[tuple[int, nn.Module]]:
    """The kept checkpoints as (epoch, model), in order. Raises NotAuditable where there are not two of them."""
    kept = [] if subject.trajectory is None else list(subject.trajectory())
    if len(kept) < 2:
        raise NotAuditable(
            "it needs at least two kept checkpoints of the training, as `train.keep: [0, last]` asks for"
        )
    return [(int(name.rsplit("-", 1)[-1]), model) for name, model in kept]


def drawn(split: Split, count: int, rng: torch.Generator) -> np.ndarray:
    """The numbers of `count` examples drawn without replacement, rising; all where there are fewer."""
    return torch.randperm(len(split), generator=rng)[:count].sort().values.numpy()


def part(split: Split, count: int, rng: torch.Generator) -> Split:
    """`count` examples drawn from a split without replacement, in their order; all where there are fewer."""
    return split.take(drawn(split, count, rng))


def losses(subject: Subject, model: nn.Module, split: Split, ctx: Context) -> np.ndarray:
    """The objective's loss of each example of a split (N,). Raises NotAuditable where the objective is no
    function of predictions alone."""
    if subject.loss is None:
        raise NotAuditable("the recipe's objective is no function of predictions alone")
    found = []
    with torch.no_grad():
        for batch in split.batches(ctx.batch_limit):
            here = batch.to(ctx.device)
            found.append(subject.loss(model(here.x), here).double().cpu())
    return torch.cat(found).numpy()


def between(first: Mapping[str, Tensor], last: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """(1 - alpha) first + alpha last for floating-point entries; counters are those of `last`."""
    return {
        name: torch.lerp(first[name], value, alpha) if value.is_floating_point() else value
        for name, value in last.items()
    }
