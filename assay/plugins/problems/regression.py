"""Real values for each example."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import Tensor

from assay.plugins.contract import BadData, Batch, Card, Data, Problem


class Regression(Problem):
    """Real values: `y` is (N,) or (N, outputs), a prediction (N, outputs); the error is the squared distance,
    averaged over the outputs."""

    card = Card(title="Regression")
    fields: ClassVar[tuple[str, ...]] = ("x", "y")
    objective: ClassVar[str] = "mse"
    headline: ClassVar[str] = "accuracy/r2"

    def check(self, data: Data) -> None:
        """Raises BadData: values missing, not floats, of another width than the spec's outputs, or all the same
        in the training split."""
        outputs = data.spec.n_outputs
        for name, split in data.splits.items():
            if "y" not in split.fields:
                raise BadData(f"split '{name}' has no values to predict: field `y` is missing")
            y = np.asarray(split.fields["y"])
            if y.dtype.kind != "f":
                raise BadData(f"values of split '{name}' are {y.dtype}, they must be floats")
            if y.reshape(len(y), -1).shape[1] != outputs:
                raise BadData(f"values of split '{name}' have shape {y.shape[1:]}, the spec says {outputs} outputs")
        y = np.asarray(data.train.fields["y"])
        if np.ptp(y.reshape(len(y), -1), axis=0).max() == 0:
            raise BadData("every training value is the same: there is nothing to predict")

    def target(self, prediction: Tensor) -> Tensor:
        """The predicted values (N, outputs)."""
        return prediction.detach()

    def score(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The sum of the predicted values: what moves it moves the prediction."""
        return prediction.flatten(1).sum(dim=1)

    def error(self, prediction: Tensor, batch: Batch) -> Tensor:
        """The squared error, averaged over the outputs."""
        y = batch.y.to(prediction)
        return (prediction.flatten(1) - y.reshape(len(y), -1)).square().mean(dim=1)

    def chance(self, data: Data) -> float:
        """The mean squared error of always answering the test split's mean."""
        y = np.asarray(data.test.fields["y"], dtype=np.float64)
        return float(y.reshape(len(y), -1).var(axis=0).mean())
