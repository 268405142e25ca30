"""A signal from what is known of it, by a few gradient steps of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from assay.plugins.contract import Batch, Card, Context, Field, NotAuditable, Predict
from assay.plugins.train.learner._signals import adapted, squared_error, trainable


class MetaInitINR(Predict):
    """Fits the network to each signal's known points by plain gradient descent on the squared error, then asks it
    for the others.

    The model is what every fit starts from, and is not changed. A pruned model's zeros are part of the start: the
    steps may move them.
    """

    card = Card(
        title="Learned Initializations for Optimizing Coordinate-Based Neural Representations",
        paper="arxiv:2012.02189",
        claim="A few gradient steps on a signal's known points predict its others better than the weights that they "
        "start from, and more steps better still.",
        verdict="reproduced",
        problems=("field",),
        drops=("grad",),
    )
    steps: int = Field(2, ge=0, le=10_000, description="gradient steps on a signal; 0: the model as it is")
    lr: float = Field(1e-2, gt=0, description="their learning rate; that of the learner's inner steps")

    def predict(self, model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
        """Values (N, P, c) at `x` after the fit to `x_context` and `y_context`.

        Raises NotAuditable where the data have no context.
        """
        if "x_context" not in batch:
            raise NotAuditable(
                "nothing is known of its signals beforehand: fields `x_context` and `y_context` are missing"
            )
        weights = adapted(model, trainable(model), batch.x_context, batch.y_context, self.steps, self.lr, squared_error)

        def ask(own: dict[str, Tensor], x: Tensor) -> Tensor:
            values: Tensor = torch.func.functional_call(model, own, (x[None],))[0]
            return values

        found: Tensor = torch.func.vmap(ask)(weights, batch.x)
        return found.detach()
