"""How differently an untrained network reacts to different inputs."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from assay.plugins.contract import Card, Context, Evaluator, Field, NotAuditable, Result, Subject
from assay.plugins.evaluate.proxy._common import answer, gradients, minibatch, untrained

SMALL = 1e-5


def jacobian(network: nn.Module, x: Tensor) -> np.ndarray:
    """The gradient of each example's summed outputs in its input: (N, D), float64."""
    inputs = x.detach().clone().requires_grad_(True)
    (found,) = gradients(network(inputs).sum(), [inputs])
    return found.flatten(1).double().cpu().numpy()


def jacob_cov(rows: np.ndarray) -> float:
    """-sum_i (log(v_i + k) + 1 / (v_i + k)) over the eigenvalues v of the correlations of the rows (N, D), k = 1e-5.

    It is highest, -N, where no two rows correlate. Raises NotAuditable where a row is constant.
    """
    if (rows.std(axis=1) == 0).any():
        raise NotAuditable("its outputs' gradient in some input is the same everywhere: that correlates with nothing")
    values = np.linalg.eigvalsh(np.corrcoef(rows)) + SMALL
    return -float((np.log(values) + 1 / values).sum())


class JacobCov(Evaluator):
    """The score of the correlations between the input gradients of a minibatch's examples, before training.

    It is the first version of the paper's score, on the Jacobian; the later one looks at ReLU patterns. It looks at
    the kept checkpoint of epoch 0 (`train.keep: [0, last]`).
    """

    card = Card(
        title="Neural Architecture Search without Training",
        paper="arxiv:2006.04647",
        also=("arxiv:2101.08134",),
        claim="Networks that score higher before their training tend to be more accurate after it (their number of "
        "parameters ranks them better still).",
        verdict="reproduced",
        needs=("trajectory", "train_data", "grad"),
        coupled=True,
    )
    examples: int = Field(64, ge=2, le=65536, description="training examples of the minibatch, drawn by the seed")

    def numbers(self) -> tuple[str, ...]:
        return ("jacob_cov",)

    def evaluate(self, subject: Subject, ctx: Context) -> Result:
        network, batch = untrained(subject, self.over, ctx), minibatch(subject, self.examples, ctx)
        if not batch.x.is_floating_point():
            raise NotAuditable("inputs are no real numbers")
        value = jacob_cov(jacobian(network, batch.x))
        return answer(
            "jacob_cov", value, "-sum of log v + 1/v over the eigenvalues v of the input gradients' correlations."
        )
