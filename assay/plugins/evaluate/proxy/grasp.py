"""GraSP as a score of untrained networks: how much the gradient flow depends on the weights."""

from __future__ import annotations

from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from assay.plugins.contract import Batch, Card, Context, Evaluator, Field, Result, Subject
from assay.plugins.evaluate.proxy._common import Loss, answer, gradients, loss_of, minibatch, untrained, weights


def grasp(network: nn.Module, batch: Batch, loss: Loss) -> float:
    """The sum over weights of -w (H g): g is the loss's gradient, H its Hessian.

    It is minus the first-order change of g·g / 2 along w: the gradient flow that is lost where the weights grow.
    """
    own = weights(network)
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention have no second derivative
        flow = gradients(loss(network(batch.x), batch).mean(), own, graph=True)
        product = sum((gradient.detach() * gradient).sum() for gradient in flow)
        curved = gradients(product, own)  # type: ignore[arg-type]
    return -sum(float((weight * each).detach().sum()) for weight, each in zip(own, curved, strict=True))


class Grasp(Evaluator):
    """The gradient flow's dependence on the weights, summed over them, of the network before its training.

    The sign is that of zero-cost architecture search: more is better. It looks at the kept checkpoint of epoch 0
    (`train.keep: [0, last]`).
    """

    card = Card(
        title="Picking Winning Tickets Before Training by Preserving Gradient Flow",
        paper="arxiv:2002.07376",
        also=("arxiv:2101.08134",),
        claim="Networks that score higher before their training tend to be more accurate after it.",
        verdict="not reproduced",
        needs=("trajectory", "train_data"),
        coupled=True,
    )
    examples: int = Field(64, ge=2, le=65536, description="training examples of the minibatch, drawn by the seed")

    def numbers(self) -> tuple[str, ...]:
        return ("grasp",)

    def evaluate(self, subject: Subject, ctx: Context) -> Result:
        network, batch = untrained(subject, self.over, ctx), minibatch(subject, self.examples, ctx)
        value = grasp(network, batch, loss_of(subject))
        return answer("grasp", value, "Sum over weights of -weight × (Hessian of the loss times its gradient).")
