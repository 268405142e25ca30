"""The Fréchet distance between draws and data."""

from __future__ import annotations

import torch
from torch import Tensor

from assay.plugins.contract import Card, Context, Evaluator, Field, Number, Result, Subject
from assay.plugins.evaluate.generation._common import draws, examples, projected

SHOWN = 36


def frechet(a: Tensor, b: Tensor) -> float:
    """Squared Fréchet distance between the normal distributions with the moments of a (N, D) and b (M, D):
    |mean_a - mean_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), covariances with N - 1 and M - 1.

    The last trace is the sum of the singular values of A^T B for square roots S_a = A A^T and S_b = B B^T, so
    that no root of a matrix that is not symmetric is taken.
    """
    centred = [(v - v.mean(dim=0)) / (len(v) - 1) ** 0.5 for v in (a, b)]
    left, right = (torch.linalg.qr(c, mode="r").R for c in centred)  # R^T R is the covariance
    shared = torch.linalg.svdvals(left @ right.T).sum()
    spread = sum(c.square().sum() for c in centred)
    distance = (a.mean(dim=0) - b.mean(dim=0)).square().sum() + spread - 2 * shared
    return float(distance.clamp_min(0.0))


class Frechet(Evaluator):
    """The Fréchet distance between as many draws as there are test examples and these, in the space of the values
    or of fixed random directions.

    The paper takes features of an Inception network, which says nothing of small or other images; these numbers
    do not compare with its. The estimate falls with the number of examples: `data` is what as many training
    examples get, the least that can be asked for. Arrays: the first draws, `samples`, and `examples`.
    """

    card = Card(
        title="GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium",
        paper="arxiv:1706.08500",
        claim="The distance rises with every increase of a disturbance: noise, blur, swapped parts.",
        verdict="reproduced",
        problems=("generation",),
        needs=("train_data",),
    )
    directions: int = Field(64, ge=1, le=4096, description="random directions; none where examples have no more values")

    def numbers(self) -> tuple[str, ...]:
        return ("frechet", "data")

    def evaluate(self, subject: Subject, ctx: Context) -> Result:
        data, drawn = subject.data["main"], draws(subject, ctx)
        test, train = examples(data.test), examples(data.train, len(data.test))
        real = projected(test, self.directions)
        numbers = {
            "frechet": Number(
                frechet(projected(drawn, self.directions), real),
                "",
                -1,
                "Squared Fréchet distance between draws and test examples as normal distributions; it falls with the "
                "number of examples.",
            ),
            "data": Number(
                frechet(projected(train, self.directions), real),
                "",
                0,
                "The same distance between training and test examples: what the data themselves get.",
            ),
        }
        shown = {"samples": drawn[:SHOWN], "examples": examples(data.test, SHOWN)}
        return Result(numbers, {name: values.float().numpy() for name, values in shown.items()})
