"""What the detectors of unfamiliar data share: the further data set and how well a score tells it apart.

A score is higher for less familiar inputs.
"""

from __future__ import annotations

import math

import numpy as np

from assay.plugins.contract import BadData, BadInput, NotAuditable, Number, Result, Split, Subject


def further_split(subject: Subject, name: str) -> Split:
    """The test split of the further data set `name`.

    Raises BadInput where there is none, BadData where its inputs are not of the model's shape and units.
    """
    if name not in subject.data:
        known = sorted(set(subject.data) - {"main"})
        raise BadInput(f"ood: '{name}' is no data set of `datasets`: {', '.join(known) or 'it has none'}")
    data, spec = subject.data[name], subject.spec
    if data.spec.shape != spec.shape:
        raise BadData(f"datasets.{name}: examples are {data.spec.shape}, the model takes {spec.shape}")
    for limit in ("low", "high", "scale"):
        theirs, ours = getattr(data.spec, limit), getattr(spec, limit)
        if not np.allclose(theirs, ours, rtol=1e-4):
            raise BadData(
                f"datasets.{name}: its pixels are in other units ({limit} {theirs}) than the model's ({ours}): "
                "it needs the same normalisation as the main data set"
            )
    return data.test


def auroc(known: np.ndarray, further: np.ndarray) -> float:
    """Probability that a further example scores above a known one, ties counting half."""
    ordered = np.sort(known)
    below = np.searchsorted(ordered, further, side="left")
    not_above = np.searchsorted(ordered, further, side="right")
    return float((below + not_above).sum() / (2.0 * len(known) * len(further)))


def fpr95(known: np.ndarray, further: np.ndarray) -> float:
    """Share of the further examples taken for known at the lowest threshold that accepts 95 % of the known."""
    accepted = math.ceil(0.95 * len(known) - 1e-9)
    return float((further <= np.sort(known)[accepted - 1]).mean())


DETECTION = ("auroc", "fpr95")
"""The names of a detector's numbers."""


def detection(known: np.ndarray, further: np.ndarray, score: str) -> Result:
    """The numbers of a detector from its scores of the main test split and of the further one.

    They have no values per example: each depends on two sets of examples. Raises NotAuditable where a
    set is empty or a score is not finite.
    """
    if not len(known) or not len(further):
        raise NotAuditable("a data set without test examples cannot be told apart")
    if not (np.isfinite(known).all() and np.isfinite(further).all()):
        raise NotAuditable(f"the {score} of some examples is NaN or infinite")
    numbers = {
        "auroc": Number(
            auroc(known, further),
            direction=1,
            definition=f"Probability that an example of the further data set has a higher {score} than one of the "
            "test split; 0.5 is chance.",
        ),
        "fpr95": Number(
            fpr95(known, further),
            direction=-1,
            definition=f"Share of the further data set's examples whose {score} is within the range that holds 95 % "
            "of the test split.",
        ),
    }
    return Result(numbers, {"known": known, "further": further})
