"""A signal as a function of coordinates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from torch import Tensor

from assay.plugins.contract import BadData, Batch, Card, Data, DataSpec, Problem


class Field(Problem):
    """Signals as functions of coordinates: an example is one signal, `x` its coordinates (P, d) and `y` its values
    there (P, c), a prediction (N, P, c). Values run from 0 to 1.

    A data set holds one signal, whose test points are others than its training points; or many, with what
    is known of each beforehand as `x_context` (K, d) and `y_context` (K, c). A coordinate is no evidence: there
    is nothing to attribute a prediction to.
    """

    card = Card(title="Coordinate-based representation of signals")
    fields: ClassVar[tuple[str, ...]] = ("x", "y")
    objective: ClassVar[str] = "mse"
    headline: ClassVar[str] = "fidelity/psnr"
    explains: ClassVar[bool] = False

    def check(self, data: Data) -> None:
        """Raises BadData: no points, values missing or not floats, not one row a point, of another width than the
        spec's outputs; likewise the context's, where there is any."""
        if len(data.spec.shape) != 2:
            raise BadData(f"a field's examples are points (P, d), these have shape {list(data.spec.shape)}")
        points, width = data.spec.shape
        outputs = data.spec.n_outputs
        for name, split in data.splits.items():
            _demand(split.fields, name, "y", (points, outputs))
            if "x_context" in split.fields or "y_context" in split.fields:
                known = split.fields["x_context"].shape[1] if "x_context" in split.fields else points
                _demand(split.fields, name, "x_context", (known, width))
                _demand(split.fields, name, "y_context", (known, outputs))

    def output(self, spec: DataSpec) -> tuple[int, ...]:
        """One row of values a point."""
        return (spec.shape[0], spec.n_outputs)

    def target(self, prediction: Tensor) -> Tensor:
        """The predicted values (N, P, c)."""
        return prediction.detach()

    def score(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The sum of the predicted values."""
        return prediction.flatten(1).sum(dim=1)

    def error(self, prediction: Tensor, batch: Batch) -> Tensor:
        """The squared error, averaged over points and values."""
        return (prediction - batch.y.to(prediction)).square().flatten(1).mean(dim=1)

    def chance(self, data: Data) -> float:
        """The mean squared error of answering the test split's mean value everywhere."""
        y = np.asarray(data.test.fields["y"], dtype=np.float64)
        return float(y.reshape(-1, y.shape[-1]).var(axis=0).mean())


def _demand(fields: Mapping[str, np.ndarray], split: str, name: str, shape: tuple[int, int]) -> None:
    if name not in fields:
        raise BadData(f"split '{split}' lacks field `{name}`, which a field's signals need beside the others")
    values = fields[name]
    if values.dtype.kind != "f":
        raise BadData(f"field `{name}` of split '{split}' is {values.dtype}, it must be floats")
    if tuple(values.shape[1:]) != shape:
        raise BadData(f"field `{name}` of split '{split}' has shape {list(values.shape[1:])}, expected {list(shape)}")
