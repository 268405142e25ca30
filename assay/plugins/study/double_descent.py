"""Model-wise double descent, and what the optimizer has to do with it."""

from __future__ import annotations

import numpy as np

from assay.plugins.contract import Ask, Card, Context, Field, Lab, Number, Result, Study
from assay.plugins.study._common import mean_loss_on


def peak(errors: np.ndarray) -> float:
    """How far a curve of test errors, by ascending width, climbs after a fall, at most, relative to the lowest error
    before the climb; 0 where it never climbs."""
    lowest = np.minimum.accumulate(errors)
    return float(((errors - lowest) / lowest).max())


class DoubleDescent(Study):
    """Trains a one-hidden-layer network of each width, for each number of epochs, and records training and test
    loss: the peak of the test loss near the width that just fits the training data is there only where the
    optimizer reaches a low training loss.

    Of the paper's factors (initialisation, normalisation, batch size, learning rate, optimizer) it varies the
    number of epochs; the others are the recipe's, so that runs of the study on other recipes vary them.
    """

    card = Card(
        title="Understanding the Role of Optimization in Double Descent",
        paper="arxiv:2312.03951",
        claim="A peak of the test error over model sizes is observed only if the optimizer finds a minimum of low "
        "enough training loss: few steps show none.",
        verdict="reproduced",
        problems=("regression", "classification"),
    )
    widths: tuple[int, ...] = Field(
        (2, 4, 8, 16, 32, 64, 128), min_length=3, examples=[(2, 4, 8)], description="hidden units, ascending"
    )
    epochs: tuple[int, ...] = Field(
        (20, 2000), min_length=2, examples=[(1, 2)], description="epochs of the trainings, ascending"
    )
    seeds: int = Field(3, ge=1, le=100, examples=[1], description="trainings of each")

    def study(self, lab: Lab, ctx: Context) -> tuple[Result, str]:
        asks = [
            Ask(changes={"model": {"name": "mlp", "hidden": [width]}, "epochs": count}, seed=ctx.seed % 2**30 + seed)
            for count in self.epochs
            for width in self.widths
            for seed in range(self.seeds)
        ]
        trained = lab.train(asks)
        shape = (len(self.epochs), len(self.widths), self.seeds)
        fitted, tested = (
            np.array([mean_loss_on(lab, t.model, t.data.splits[split], ctx.batch_limit) for t in trained]).reshape(
                shape
            )
            for split in ("train", "test")
        )
        climbs = [peak(np.median(errors, axis=1)) for errors in tested]
        numbers = {
            "peak_short": Number(
                climbs[0], "", 0, "Climb of the test loss over widths after the fewest epochs; 0: none."
            ),
            "peak_long": Number(
                climbs[-1], "", 0, "Climb of the test loss over widths after the most epochs; 0: none."
            ),
            "fitted_short": Number(float(np.median(fitted[0])), "", 0, "Median training loss after the fewest epochs."),
            "fitted_long": Number(float(np.median(fitted[-1])), "", 0, "Median training loss after the most epochs."),
        }
        arrays = {"width": np.array(self.widths)}
        for i, count in enumerate(self.epochs):
            arrays[f"training_loss_{count}"] = np.median(fitted[i], axis=1)
            arrays[f"test_loss_{count}"] = np.median(tested[i], axis=1)
        verdict = (
            f"after {self.epochs[0]} epochs the test loss climbs by {climbs[0]:.0%} over widths, "
            f"after {self.epochs[-1]} by {climbs[-1]:.0%}"
        )
        return Result(numbers, arrays), verdict
