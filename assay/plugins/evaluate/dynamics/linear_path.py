"""The loss on the straight line from the initial to the trained weights."""

from __future__ import annotations

import copy

import numpy as np

from assay.plugins.contract import Card, Context, Evaluator, Field, Number, Result, Subject
from assay.plugins.evaluate.dynamics._common import between, course, losses, part


def rise(values: np.ndarray) -> float:
    """The most that a curve (K,) climbs above its lowest point so far."""
    return float((values - np.minimum.accumulate(values)).max())


class LinearPath(Evaluator):
    """The mean training loss at (1 - a) theta_0 + a theta_T, for a from 0 (the first kept checkpoint, which should
    be epoch 0) to 1 (the last), running statistics interpolated like weights.

    Arrays: `alpha` and `loss` (K,), and `loss_by_epoch` with `epoch`: the loss at the kept checkpoints, where the
    training really went.
    """

    card = Card(
        title="Qualitatively characterizing neural network optimization problems",
        paper="arxiv:1412.6544",
        claim="On the straight line from its initial to its trained weights a network's training loss falls without "
        "meeting a barrier.",
        verdict="reproduced",
        needs=("trajectory", "train_data"),
    )
    points: int = Field(21, ge=3, le=1001, description="points on the line, both ends included")
    examples: int = Field(1024, ge=1, description="training examples that the loss is averaged over, drawn by the seed")

    def numbers(self) -> tuple[str, ...]:
        return ("barrier", "start", "end")

    def evaluate(self, subject: Subject, ctx: Context) -> Result:
        kept = course(subject)
        split = part(subject.data["main"].train, self.examples, ctx.rng)
        first, last = (model.to(ctx.device).state_dict() for _, model in (kept[0], kept[-1]))
        walker = copy.deepcopy(kept[-1][1])
        alphas = np.linspace(0.0, 1.0, self.points)
        line = []
        for alpha in alphas:
            walker.load_state_dict(between(first, last, float(alpha)))
            line.append(float(losses(subject, walker, split, ctx).mean()))
        walked = np.array([losses(subject, model, split, ctx).mean() for _, model in kept])
        curve = np.array(line)
        numbers = {
            "barrier": Number(
                rise(curve), "", -1, "The most that the loss climbs on the line above its lowest point so far; 0: none."
            ),
            "start": Number(curve[0], "", 0, "Mean training loss at the first kept checkpoint."),
            "end": Number(curve[-1], "", 0, "Mean training loss at the last kept checkpoint."),
        }
        epochs = np.array([epoch for epoch, _ in kept])
        return Result(numbers, {"alpha": alphas, "loss": curve, "epoch": epochs, "loss_by_epoch": walked})
