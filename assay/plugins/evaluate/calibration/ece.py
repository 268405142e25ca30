"""How far confidence is from accuracy: expected calibration error, likelihood and Brier score."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from assay.plugins.contract import Card, Context, Evaluator, Field, Number, Result, Subject
from assay.plugins.evaluate._common import labels, mean_number, predictions

Scheme = Literal["equal_width", "equal_mass"]


def bin_edges(confidence: np.ndarray, bins: int, scheme: Scheme) -> np.ndarray:
    """The `bins` + 1 edges in [0, 1]: evenly spaced, or the confidences' quantiles."""
    even = np.linspace(0.0, 1.0, bins + 1)
    return even if scheme == "equal_width" else np.quantile(confidence, even)


def reliability(confidence: np.ndarray, correct: np.ndarray, edges: np.ndarray) -> dict[str, np.ndarray]:
    """Mean confidence, accuracy and number of the examples in each bin (lower, upper]; NaN where empty.

    `confidence` in [0, 1] and `correct` in {0, 1} are (N,). The first bin holds its lower edge too.
    """
    bins = len(edges) - 1
    # Equal confidences share a bin whatever their order, so equal_mass bins may be uneven or empty.
    which = np.digitize(confidence, edges[1:-1], right=True)
    count = np.bincount(which, minlength=bins)
    sums = {name: np.bincount(which, weights=v, minlength=bins) for name, v in (("c", confidence), ("a", correct))}
    full = np.maximum(count, 1)
    mean = {name: np.where(count > 0, total / full, np.nan) for name, total in sums.items()}
    return {"confidence": mean["c"], "accuracy": mean["a"], "count": count, "edges": edges}


def calibration_error(diagram: dict[str, np.ndarray]) -> float:
    """The mean over examples of the gap between accuracy and confidence of their bin, in [0, 1]."""
    gap = np.abs(np.nan_to_num(diagram["accuracy"] - diagram["confidence"]))
    return float((diagram["count"] * gap).sum() / diagram["count"].sum())


def nll(logits: Tensor, y: Tensor) -> Tensor:
    """Minus the log probability of the true class (N,), finite for any finite logits."""
    return torch.nn.functional.cross_entropy(logits, y, reduction="none")


def brier(logits: Tensor, y: Tensor) -> Tensor:
    """Squared distance of the probabilities from the one-hot label, summed over classes: (N,) in [0, 2]."""
    wanted = torch.nn.functional.one_hot(y, logits.shape[1]).to(logits.dtype)
    return (logits.softmax(dim=1) - wanted).square().sum(dim=1)


class ECE(Evaluator):
    """Expected calibration error of the highest class probability, with NLL and Brier score.

    Arrays for the reliability diagram: `confidence`, `accuracy` (NaN in an empty bin) and `count` of each
    bin, and the bins' `edges`. All is computed in float64 from the logits.
    """

    card = Card(
        title="On Calibration of Modern Neural Networks",
        paper="arxiv:1706.04599",
        also=("Naeini, Cooper, Hauskrecht, AAAI 2015", "Brier, Monthly Weather Review 1950"),
        claim="A network trained to fit its data is over-confident on test data, and dividing its logits by one "
        "temperature fitted on held-out data lowers the calibration error without changing accuracy.",
        verdict="reproduced",
        problems=("classification", "graph"),
    )
    bins: int = Field(15, ge=1, le=1000, description="number of confidence bins")
    scheme: Scheme = Field("equal_width", description="bins of equal width, or with equally many examples")

    def numbers(self) -> tuple[str, ...]:
        return ("ece", "nll", "brier")

    def evaluate(self, subject: Subject, ctx: Context) -> Result:
        split = subject.data["main"].test
        logits, y = predictions(subject, split, ctx), labels(split)
        confidence = logits.softmax(dim=1).amax(dim=1).numpy().clip(0.0, 1.0)
        correct = (logits.argmax(dim=1) == y).numpy().astype(np.float64)
        diagram = reliability(confidence, correct, bin_edges(confidence, self.bins, self.scheme))
        numbers = {
            "ece": Number(
                calibration_error(diagram),
                direction=-1,
                definition="Gap between accuracy and mean confidence within bins of like confidence, averaged over "
                "the test examples.",
            ),
            "nll": mean_number(
                nll(logits, y).numpy(), "Mean of minus the log probability given to the true class.", -1, "nat"
            ),
            "brier": mean_number(
                brier(logits, y).numpy(),
                "Mean squared distance of the class probabilities from the one-hot true class, from 0 to 2.",
                -1,
            ),
        }
        return Result(numbers, diagram)
