"""How many draws look like data, and how much of the data is drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from assay.plugins.contract import Card, Context, Evaluator, Field, NotAuditable, Result, Subject
from assay.plugins.evaluate._common import mean_number
from assay.plugins.evaluate.generation._common import draws, examples, projected

ROWS = 1024


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances (N, M), without the rounding of the expanded square."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def radii(points: Tensor, k: int) -> Tensor:
    """Distance (N,) of each point to its k-th nearest neighbour among the others."""
    parts = [distances(part, points).kthvalue(k + 1, dim=1).values for part in points.split(ROWS)]
    return torch.cat(parts)


def covered(points: Tensor, support: Tensor, radius: Tensor) -> Tensor:
    """Whether each point (N, D) lies in a ball around one of `support` (M, D) with its `radius` (M,): bool (N,)."""
    return torch.cat([(distances(part, support) <= radius).any(dim=1) for part in points.split(ROWS)])


class PrecisionRecall(Evaluator):
    """Precision: the share of draws within the support of the test examples; recall: the share of these within the
    support of the draws. A support is the union of balls that reach to each point's k-th nearest neighbour.

    As many draws as test examples, in the space of the values or of fixed random directions where the paper has
    features of a VGG network. A sampler that draws few kinds of examples well has precision without recall.
    """

    card = Card(
        title="Improved Precision and Recall Metric for Assessing Generative Models",
        paper="arxiv:1904.06991",
        claim="Truncating the draws' noise raises precision and lowers recall.",
        verdict="reproduced",
        problems=("generation",),
        coupled=True,
    )
    neighbours: int = Field(3, ge=1, le=1000, description="which nearest neighbour a ball reaches to")
    directions: int = Field(64, ge=1, le=4096, description="random directions; none where examples have no more values")

    def numbers(self) -> tuple[str, ...]:
        return ("precision", "recall")

    def evaluate(self, subject: Subject, ctx: Context) -> Result:
        """Raises NotAuditable where there are no more test examples than `neighbours`."""
        test = subject.data["main"].test
        if len(test) <= self.neighbours:
            raise NotAuditable(f"{len(test)} test examples have no {self.neighbours} neighbours")
        fake = projected(draws(subject, ctx), self.directions)
        real = projected(examples(test), self.directions)
        precise = covered(fake, real, radii(real, self.neighbours))
        recalled = covered(real, fake, radii(fake, self.neighbours))
        return Result(
            {
                "precision": mean_number(
                    precise.numpy(), "Share of draws within the support of the test examples.", direction=1
                ),
                "recall": mean_number(
                    recalled.numpy(), "Share of test examples within the support of the draws.", direction=1
                ),
            }
        )
