"""The norm of the gradient before training."""

from __future__ import annotations

from torch import nn

from assay.plugins.contract import Batch, Card, Context, Evaluator, Field, Result, Subject
from assay.plugins.evaluate.proxy._common import Loss, answer, gradients, loss_of, minibatch, untrained, weights


def grad_norm(network: nn.Module, batch: Batch, loss: Loss) -> float:
    """The sum over layers of the Euclidean norm of the mean loss's gradient in the layer's weights."""
    found = gradients(loss(network(batch.x), batch).mean(), weights(network))
    return sum(float(gradient.norm()) for gradient in found)


class GradNorm(Evaluator):
    """The gradient's norm, summed over layers, of one minibatch's loss on the network before its training.

    It looks at the kept checkpoint of epoch 0 (`train.keep: [0, last]`).
    """

    card = Card(
        title="Zero-Cost Proxies for Lightweight NAS",
        paper="arxiv:2101.08134",
        claim="Networks that score higher before their training tend to be more accurate after it (their number of "
        "parameters ranks them better still).",
        verdict="reproduced",
        needs=("trajectory", "train_data"),
        coupled=True,
    )
    examples: int = Field(64, ge=2, le=65536, description="training examples of the minibatch, drawn by the seed")

    def numbers(self) -> tuple[str, ...]:
        return ("grad_norm",)

    def evaluate(self, subject: Subject, ctx: Context) -> Result:
        network, batch = untrained(subject, self.over, ctx), minibatch(subject, self.examples, ctx)
        value = grad_norm(network, batch, loss_of(subject))
        return answer("grad_norm", value, "Norm of the loss's gradient in each layer's weights, summed over layers.")
