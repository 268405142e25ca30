"""What several evaluators share: predictions of a split, means over examples, pixel bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from assay.plugins.contract import Context, DataSpec, NotAuditable, Number, Split, Subject


def predictions(subject: Subject, split: Split, ctx: Context) -> Tensor:
    """Deployed predictions of every example of a split, in order: float64 (N, outputs) on the CPU.

    Raises NotAuditable where the split is empty or a prediction is NaN or infinite.
    """
    if len(split) == 0:
        raise NotAuditable("there are no examples to evaluate on")
    parts = [subject.predict(batch).detach().to("cpu", torch.float64) for batch in split.batches(ctx.batch_limit)]
    values = torch.cat(parts)
    broken = int((~torch.isfinite(values).flatten(1).all(dim=1)).sum())
    if broken:
        raise NotAuditable(f"the predictions of {broken} of {len(values)} examples are NaN or infinite")
    return values


def labels(split: Split) -> Tensor:
    """The true classes of a split, int64 (N,); the likeliest ones where it has probabilities (N, classes)."""
    y = np.asarray(split.fields["y"])
    return torch.from_numpy((y.argmax(axis=1) if y.dtype.kind == "f" else y).astype(np.int64))


def rows(values: Tensor | np.ndarray) -> np.ndarray:
    """Values of examples (N, ...) as float64 rows (N, D)."""
    return np.asarray(values, dtype=np.float64).reshape(len(values), -1)


def mean_number(each: np.ndarray, definition: str, direction: Literal[-1, 0, 1], unit: str = "") -> Number:
    """A number that is the mean over examples of `each` (N,); of a single example it has no interval."""
    values = np.asarray(each, dtype=np.float64)
    return Number(float(values.mean()), unit, direction, definition, each=values if len(values) > 1 else None)


def pixels(spec: DataSpec, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Lowest and highest valid value (infinite where there are no bounds) and length of one pixel unit, each to
    broadcast against `like` (N, *spec.shape)."""

    def spread(values: Sequence[float]) -> Tensor:
        return like.new_tensor(list(values)).reshape(-1, *[1] * (like.ndim - 2))

    low, high = spec.valid
    return spread(low), spread(high), spread(spec.scale)
