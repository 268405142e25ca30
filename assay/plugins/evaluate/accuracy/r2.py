"""How much of the values' variance a model explains, and its errors in their unit."""

from __future__ import annotations

import numpy as np

from assay.plugins.contract import Card, Context, Evaluator, NotAuditable, Number, Result, Subject
from assay.plugins.evaluate._common import mean_number, predictions, rows


def coefficient(true: np.ndarray, predicted: np.ndarray) -> float:
    """1 - sum (y - f)^2 / sum (y - mean y)^2 for each column of (N, outputs), mean over those that vary.

    NaN where none varies.
    """
    spread = np.square(true - true.mean(axis=0)).sum(axis=0)
    varies = spread > 0
    if not varies.any():
        return float("nan")
    return float((1 - np.square(true - predicted).sum(axis=0)[varies] / spread[varies]).mean())


class R2(Evaluator):
    """The coefficient of determination on the test split, and mean errors."""

    card = Card(title="Coefficient of determination", problems=("regression",))

    def numbers(self) -> tuple[str, ...]:
        return ("r2", "rmse", "mae", "mse")

    def evaluate(self, subject: Subject, ctx: Context) -> Result:
        """`mse` and `mae` have one value an example. Raises NotAuditable where all test values are the same."""
        split = subject.data["main"].test
        predicted, true = rows(predictions(subject, split, ctx)), rows(split.fields["y"])
        r2 = coefficient(true, predicted)
        if np.isnan(r2):
            raise NotAuditable("all test values are the same: there is no variance to explain")
        squares, sizes = np.square(true - predicted).mean(axis=1), np.abs(true - predicted).mean(axis=1)
        return Result(
            {
                "r2": Number(r2, "", 1, "Share of the test values' variance that the predictions explain; 0: no better "
                             "than their mean, negative: worse."),
                "rmse": Number(float(np.sqrt(squares.mean())), "", -1, "Root of the mean squared error, in the values' "
                               "unit."),
                "mae": mean_number(sizes, "Mean absolute error, in the values' unit.", -1),
                "mse": mean_number(squares, "Mean squared error, in the square of the values' unit.", -1),
            }
        )  # fmt: skip
