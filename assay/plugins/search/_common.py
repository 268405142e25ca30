"""What searches share: the points of a space, what each ends with on held-out examples, the table of what was tried."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from assay.plugins.contract import Ask, AssayError, BadInput, Failed, Lab, Number

SPLIT = "prepare/transform/validation_split"
"""What sets the split `validation` apart in data that have none."""

Changes = Mapping[str, Any]
"""A point: the value of each path of the space."""


@dataclass(frozen=True)
class Tried:
    """A point and the validation error of its training's last epoch; NaN, and why, where it came to nothing."""

    point: Changes
    error: float
    failure: str = ""


def points(space: Mapping[str, Sequence[Any]], most: int) -> list[dict[str, Any]]:
    """Every combination of the values of a space's paths; those of the last path change fastest. Raises BadInput
    where there are more than `most`."""
    count = math.prod(len(values) for values in space.values())
    if count > most:
        raise BadInput(f"the space has {count:,} points; this search takes at most {most:,}: give fewer values")
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]


def ask(lab: Lab, changes: Changes, share: float) -> Ask:
    """A training with these changes that knows a split `validation`: a share of the training examples, where the
    data have none. All asks of a search have the recipe's seed, hence the same split."""
    apart = {"name": SPLIT.removeprefix("prepare/"), "share": share}
    return Ask(changes=changes, transforms=() if "validation" in lab.data.splits else (apart,))


def attempt(lab: Lab, chosen: Sequence[Changes], share: float) -> list[Tried]:
    """What the points end with, in order, all asked for at once. Raises BadInput where a training knows no
    validation error."""
    found = []
    for point, result in zip(chosen, lab.attempt([ask(lab, point, share) for point in chosen]), strict=True):
        if isinstance(result, Failed):
            found.append(Tried(point, math.nan, result.reason))
            continue
        if not result.history:
            raise BadInput("a search compares trainings: train.epochs must be at least 1")
        if "validation_error" not in result.history[-1]:
            raise BadInput(f"a search needs errors of predictions, and {lab.data.spec.problem} has none")
        found.append(Tried(point, float(result.history[-1]["validation_error"])))
    return found


def best(tried: Sequence[Tried]) -> Tried:
    """The point with the lowest validation error, of equals the first. Raises AssayError where all failed."""
    finished = [one for one in tried if not one.failure]
    if not finished:
        raise AssayError(f"every point of the search failed; the first: {tried[0].failure}")
    return min(finished, key=lambda one: one.error)


def error_number(tried: Sequence[Tried]) -> Number:
    """The lowest validation error."""
    text = "Mean error of the best point on the split `validation`, after its last epoch; the lowest of all tried."
    return Number(best(tried).error, "", -1, text)


def table(tried: Sequence[Tried], more: Mapping[str, np.ndarray] = MappingProxyType({})) -> dict[str, np.ndarray]:
    """Columns with a row for each point that was tried, in order: its values, its validation error, the lowest so
    far, what more there is; and why it failed, where one did."""
    errors = np.array([one.error for one in tried])
    columns = {
        "query": np.arange(1, len(tried) + 1),
        **{path: np.array([str(one.point[path]) for one in tried]) for path in tried[0].point},
        "validation_error": errors,
        "lowest_so_far": np.fmin.accumulate(errors),
        **more,
    }
    failures = np.array([one.failure for one in tried])
    return {**columns, "failure": failures} if failures.any() else columns
