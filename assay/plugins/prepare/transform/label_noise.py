"""Wrong labels in the training split."""

from __future__ import annotations

from typing import Literal

import numpy as np

from assay.plugins.contract import BadData, Card, Context, Data, Field, Record, Transform
from assay.plugins.prepare.transform._common import draw_seed, split_rng


def flip(y: np.ndarray, classes: int, fraction: float, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Labels (N,) of which round(fraction * N), drawn at random, are drawn anew.

    `symmetric`: another class, each as likely; `pair`: the next one, y + 1 mod classes; `uniform`: any class, the
    right one included, each as likely.
    """
    wrong = rng.permutation(len(y))[: round(fraction * len(y))]
    step = 1 if kind == "pair" else rng.integers(int(kind == "symmetric"), classes, size=len(wrong))
    noisy = np.array(y)
    noisy[wrong] = (noisy[wrong] + step) % classes
    return noisy


class LabelNoise(Transform):
    """Makes a share of the training labels wrong; the right ones stay as field `y_clean`.

    The test split is not touched.
    """

    card = Card(
        title="Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy Labels",
        paper="arxiv:1804.06872",
        also=("arxiv:1406.2080", "arxiv:1609.03683", "arxiv:1611.03530"),
        problems=("classification",),
        gives=("y_clean",),
    )
    fraction: float = Field(0.2, ge=0, le=1, description="share of the training labels that become wrong")
    kind: Literal["symmetric", "pair", "uniform"] = Field(
        "symmetric",
        description="symmetric: any other class, each as likely; pair: the next class; uniform: any class, the right "
        "one included",
    )

    def fit(self, data: Data, ctx: Context) -> Record:
        """The seed of the draw. Raises BadData where there are no class labels or less than two classes."""
        y = data.train.fields.get("y")
        if y is None or y.ndim != 1 or y.dtype.kind not in "iu" or len(data.spec.classes) < 2:
            raise BadData("transform/label_noise needs whole-number labels `y` of at least two classes")
        return Record({"seed": draw_seed(ctx)})

    def apply(self, data: Data, record: Record) -> Data:
        """The data with noisy `y` and with `y_clean` in `train`; data without a training split as they are."""
        if "train" not in data.splits:
            return data
        fields = data.train.fields
        rng = split_rng(record.values["seed"], "train")
        noisy = flip(np.asarray(fields["y"]), len(data.spec.classes), self.fraction, self.kind, rng)
        # Applied twice, the first labels are still the right ones.
        train = data.train.replace(y=noisy, y_clean=fields.get("y_clean", fields["y"]))
        return data.replace(splits={**data.splits, "train": train})
