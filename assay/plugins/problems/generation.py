"""Draws from the distribution of the examples."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import Tensor

from assay.plugins.contract import BadData, Batch, Card, Data, DataSpec, NotAuditable, Problem

NO_ANSWER = "a draw has no right answer: how good draws are is a question of all of them together"


class Generation(Problem):
    """New examples like those of the data: a prediction is one draw (N, ...) in the shape and units of `x`.

    A `predict` method draws it; the network alone gives a velocity, the noise in its input, or whatever the
    method asks of it. `y`, where the data have it, is what a guide is trained on.
    """

    card = Card(title="Generation")
    fields: ClassVar[tuple[str, ...]] = ("x",)
    objective: ClassVar[str] = "flow_matching"
    headline: ClassVar[str] = "generation/frechet"
    explains: ClassVar[bool] = False
    samples: ClassVar[bool] = True

    def check(self, data: Data) -> None:
        """Raises BadData: training examples that are all the same, or labels `y` out of the range of the classes."""
        x = data.train.fields["x"]
        if all(np.array_equal(x[:1], x[i : i + 1]) for i in range(1, len(x))):
            raise BadData("every training example is the same: there is no distribution to draw from")
        if not data.spec.classes:
            return
        for name, split in data.splits.items():
            y = np.asarray(split.fields.get("y", np.zeros(0, dtype=np.int64)))
            if y.dtype.kind not in "iu" or (len(y) and (y.min() < 0 or y.max() >= len(data.spec.classes))):
                raise BadData(f"labels of split '{name}' must be whole numbers in 0..{len(data.spec.classes) - 1}")

    def output(self, spec: DataSpec) -> tuple[int, ...]:
        """An example's shape."""
        return spec.shape

    def target(self, prediction: Tensor) -> Tensor:
        """The draw itself."""
        return prediction.detach()

    def score(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The sum of the draw's values."""
        return prediction.flatten(1).sum(dim=1)

    def error(self, prediction: Tensor, batch: Batch) -> Tensor:
        """Raises NotAuditable: no draw is wrong by itself. One that repeats a training example is as near to the
        data as can be, and a sampler that does nothing else has failed."""
        raise NotAuditable(NO_ANSWER)

    def chance(self, data: Data) -> float:
        """Raises NotAuditable, as `error`."""
        raise NotAuditable(NO_ANSWER)
