"""What judges of draws share: the draws, the examples to compare them with, and a space to compare them in."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from assay.plugins.contract import Context, NotAuditable, Split, Subject
from assay.plugins.evaluate._common import predictions

DIRECTIONS_SEED = 0


def draws(subject: Subject, ctx: Context) -> Tensor:
    """One draw for each test example, float64 (N, ...). Raises NotAuditable where there are too few to compare, or
    a draw is NaN or infinite."""
    found = predictions(subject, subject.data["main"].test, ctx)
    if len(found) < 2:
        raise NotAuditable("a single draw cannot be compared with a distribution")
    return found


def examples(split: Split, count: int | None = None) -> Tensor:
    """`count` examples evenly from a split (all where None) as the model sees them, float64 (N, ...)."""
    some = len(split) if count is None else min(count, len(split))
    return split.batch(np.linspace(0, len(split) - 1, some).round().astype(np.int64)).x.double()


def projected(values: Tensor, size: int) -> Tensor:
    """Examples (N, ...) flattened, on `size` random directions that are the same for all data and models; as they
    are where they have no more values than that. Distances are kept on average."""
    flat = values.flatten(1)
    width = flat.shape[1]
    if width <= size:
        return flat
    directions = np.random.default_rng(DIRECTIONS_SEED).standard_normal((width, size)) / size**0.5
    return flat @ torch.from_numpy(directions)
