"""Fisher potential: what taking channels away would cost the untrained network."""

from __future__ import annotations

from torch import Tensor, nn

from assay.plugins.contract import Batch, Card, Context, Evaluator, Field, Result, Subject, tap
from assay.plugins.evaluate.proxy._common import Loss, answer, gradients, layers, loss_of, minibatch, untrained, weights


def channel_potential(activation: Tensor, gradient: Tensor) -> Tensor:
    """1 / (2N) sum_n (sum_ij a_nij g_nij)² of each channel (C,), for activations and gradients (N, C, *places)."""
    moved = (activation * gradient).flatten(1) if activation.ndim == 2 else (activation * gradient).flatten(2).sum(2)
    return moved.square().mean(0) / 2


def fisher(network: nn.Module, batch: Batch, loss: Loss) -> float:
    """The sum over the output channels of all layers of `channel_potential`, g being the gradient of each example's
    own loss."""
    weights(network)  # says why where there are no layers
    linear = {name: isinstance(module, nn.Linear) for name, module in layers(network)}
    with tap(network, linear) as seen:
        total = loss(network(batch.x), batch).sum()
    found = gradients(total, list(seen.values()))
    potential = 0.0
    for (name, activation), gradient in zip(seen.items(), found, strict=True):
        a, g = (t.movedim(-1, 1) if linear[name] else t for t in (activation.detach(), gradient))
        potential += float(channel_potential(a, g).sum())
    return potential


class Fisher(Evaluator):
    """The Fisher potential, summed over channels, of the network before its training.

    It looks at the kept checkpoint of epoch 0 (`train.keep: [0, last]`).
    """

    card = Card(
        title="BlockSwap: Fisher-guided Block Substitution for Network Compression on a Budget",
        paper="arxiv:1906.04113",
        also=("arxiv:1801.05787", "arxiv:2101.08134"),
        claim="Networks that score higher before their training tend to be more accurate after it.",
        verdict="not reproduced",
        needs=("trajectory", "train_data"),
        coupled=True,
    )
    examples: int = Field(64, ge=2, le=65536, description="training examples of the minibatch, drawn by the seed")

    def numbers(self) -> tuple[str, ...]:
        return ("fisher",)

    def evaluate(self, subject: Subject, ctx: Context) -> Result:
        network, batch = untrained(subject, self.over, ctx), minibatch(subject, self.examples, ctx)
        value = fisher(network, batch, loss_of(subject))
        return answer("fisher", value, "Sum over channels of half the mean squared (activation × gradient).")
