"""Betti matching error."""

from __future__ import annotations

import numpy as np

from assay.plugins._topology import NEVER, Filtration, betti_matching
from assay.plugins.contract import Card, Context, Evaluator, Field, NotAuditable, Result, Subject
from assay.plugins.evaluate._common import labels, mean_number, predictions


def errors(predicted: np.ndarray, true: np.ndarray) -> tuple[list[int], list[int]]:
    """Of two binary images: how many components and holes of either are not matched with one of the other,
    and how far their numbers differ, each by dimension."""
    first, second = Filtration(predicted), Filtration(true)
    unmatched, difference = [], []
    for dimension, found in enumerate(betti_matching(first, second)):
        own, other = (
            sum(1 for f in image.barcode[dimension] if present(image, dimension, f)) for image in (first, second)
        )
        both = sum(present(first, dimension, a) and present(second, dimension, b) for a, b in found.matched)
        unmatched.append(own + other - 2 * both)
        difference.append(abs(own - other))
    return unmatched, difference


def present(image: Filtration, dimension: int, feature: tuple[int, int]) -> bool:
    """Whether a feature is one of the foreground: only the lasting component of an empty image is not."""
    made, ended = image.pixels(dimension, feature)
    return bool(image.values[made] > 0) and (ended == NEVER or not image.values[ended] > 0)


class BettiMatching(Evaluator):
    """Components and holes of predicted and true foreground that have no counterpart at their place.

    Foreground is every class but `background`; its pixels touch along sides. `error` counts what is unmatched
    in either image, `components` and `holes` its two parts; `betti_number` is the plain difference of the
    numbers of components and of holes, which does not ask where they are. All are means over images.
    """

    card = Card(
        title="Topologically faithful image segmentation via induced matching of persistence barcodes",
        paper="arxiv:2211.15272",
        claim="Features at wrong places, which leave the difference of Betti numbers at zero, are counted.",
        verdict="reproduced",
        problems=("segmentation",),
        modality=("image",),
    )
    background: int = Field(0, ge=0, le=10_000, description="the class that is not foreground")
    images: int = Field(200, ge=1, le=1_000_000, description="test images, the first ones; all if there are fewer")

    def numbers(self) -> tuple[str, ...]:
        return ("error", "components", "holes", "betti_number")

    def evaluate(self, subject: Subject, ctx: Context) -> Result:
        test = subject.data["main"].test
        if self.background >= len(subject.spec.classes):
            raise NotAuditable(f"there is no class {self.background} to be the background")
        split = test.take(np.arange(min(self.images, len(test))))
        predicted = predictions(subject, split, ctx).argmax(dim=1).numpy() != self.background
        true = labels(split).numpy() != self.background
        found = [errors(a, b) for a, b in zip(predicted, true, strict=True)]
        unmatched, difference = (np.array(part, dtype=np.float64) for part in zip(*found, strict=True))
        what = "of predicted and true foreground without a counterpart at their place, mean over images."
        numbers = {
            "error": mean_number(unmatched.sum(axis=1), f"Components and holes {what}", -1),
            "components": mean_number(unmatched[:, 0], f"Components {what}", -1),
            "holes": mean_number(unmatched[:, 1], f"Holes {what}", -1),
            "betti_number": mean_number(
                difference.sum(axis=1), "Difference of the numbers of components plus that of holes.", -1
            ),
        }
        return Result(numbers)
