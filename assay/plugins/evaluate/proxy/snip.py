"""SNIP as a score of untrained networks: how much the loss depends on the connections."""

from __future__ import annotations

from torch import nn

from assay.plugins.contract import Batch, Card, Context, Evaluator, Field, Result, Subject
from assay.plugins.evaluate.proxy._common import Loss, answer, gradients, loss_of, minibatch, untrained, weights


def snip(network: nn.Module, batch: Batch, loss: Loss) -> float:
    """The sum over weights of |w dL/dw|, the loss's first-order change when the connection is taken away."""
    own = weights(network)
    found = gradients(loss(network(batch.x), batch).mean(), own)
    return sum(float((weight * gradient).detach().abs().sum()) for weight, gradient in zip(own, found, strict=True))


class Snip(Evaluator):
    """The connection sensitivities, summed over all weights, of the network before its training.

    It looks at the kept checkpoint of epoch 0 (`train.keep: [0, last]`).
    """

    card = Card(
        title="SNIP: Single-shot Network Pruning based on Connection Sensitivity",
        paper="arxiv:1810.02340",
        also=("arxiv:2101.08134",),
        claim="Networks that score higher before their training tend to be more accurate after it (their number of "
        "parameters ranks them better still).",
        verdict="reproduced",
        needs=("trajectory", "train_data"),
        coupled=True,
    )
    examples: int = Field(64, ge=2, le=65536, description="training examples of the minibatch, drawn by the seed")

    def numbers(self) -> tuple[str, ...]:
        return ("snip",)

    def evaluate(self, subject: Subject, ctx: Context) -> Result:
        network, batch = untrained(subject, self.over, ctx), minibatch(subject, self.examples, ctx)
        value = snip(network, batch, loss_of(subject))
        return answer("snip", value, "Sum over weights of |weight × gradient of the loss|.")
