"""Learning by directional derivatives along random directions, without a backward pass."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call

from assay.plugins.contract import BadInput, Batch, Card, Context, Data, Field, Gradients, Learner, State, Terms
from assay.plugins.train.learner._common import first_state, one_an_example, update


class Losses(nn.Module):
    """The losses of a batch as a function of all parameters of a training."""

    def __init__(self, state: State):
        super().__init__()
        self.model = state.model
        self.own = nn.ModuleList(state.own.values())
        self.terms = state.terms

    def forward(self, batch: Batch) -> Tensor:
        """Objective plus penalties, (N,) or a scalar."""
        with self.terms.autocast():
            return self.terms.losses(self.model, batch)


def directional(losses: Losses, batch: Batch, direction: Mapping[nn.Parameter, Tensor]) -> tuple[Tensor, Tensor]:
    """The losses, and their derivatives along a direction in the space of the parameters, in one forward pass.

    Raises BadInput where an operation of the model has no forward-mode derivative.
    """
    with torch.no_grad(), forward_ad.dual_level():
        duals = {
            name: forward_ad.make_dual(parameter.detach(), direction[parameter])
            for name, parameter in losses.named_parameters()
            if parameter in direction
        }
        try:
            value, tangent = forward_ad.unpack_dual(functional_call(losses, duals, (batch,)))
        except NotImplementedError as error:
            raise BadInput(f"train.learner: forward_gradient cannot differentiate this training: {error}") from error
    return value, torch.zeros_like(value) if tangent is None else tangent


def differentiate(
    state: State, batch: Batch, weights: Tensor | None, apart: bool, ctx: Context, directions: int
) -> Gradients:
    """Losses of the batch, and the mean over random directions v ~ N(0, I) of (gradient . v) v, an unbiased
    estimate of the gradient; `apart`, of each loss's gradient, a row an example."""
    losses, parameters = Losses(state), state.parameters()
    values, total = torch.zeros(()), [p.new_zeros(()) for p in parameters]
    for _ in range(directions):
        drawn = [torch.randn(p.shape, generator=ctx.rng).to(p) for p in parameters]
        values, slopes = directional(losses, batch, dict(zip(parameters, drawn, strict=True)))
        if apart:
            one_an_example(slopes)
        if weights is not None and slopes.ndim:
            slopes = slopes * weights
        if not apart:
            slopes = slopes.mean()
        total = [t + slopes.reshape(slopes.shape + (1,) * v.ndim) * v for t, v in zip(total, drawn, strict=True)]
    return Gradients(values, [t / directions for t in total])


class ForwardGradient(Learner):
    """Gradient descent on forward gradients: (gradient . v) v for a random direction v, by forward-mode
    differentiation in a single pass.

    The estimate is unbiased; its variance grows with the number of parameters, so that the learning rate must be
    smaller than with backpropagation. Parameters of the terms' own modules are estimated along. The paper's gain in
    time does not show here: on a CPU a step with one direction takes 1.2 times as long as one of backpropagation
    (three layers of 512 units, batches of 500).
    """

    card = Card(
        title="Gradients without Backpropagation",
        paper="arxiv:2202.08587",
        claim="Gradient descent on forward gradients minimises the loss without a backward pass.",
        verdict="reproduced",
        gives=("closure", "apart", "activations"),
    )
    directions: int = Field(1, ge=1, le=10_000, description="random directions at a step, whose estimates are averaged")

    def init(self, model: nn.Module, terms: Terms, data: Data, ctx: Context) -> State:  # type: ignore[override]
        """The state before the first step."""
        return first_state(model, terms, data, ctx)

    def step(self, state: State, batch: Batch, ctx: Context) -> Mapping[str, Tensor]:
        """One update; `loss` is the batch's mean loss before it."""
        state.model.train()

        def estimate(state: State, batch: Batch, weights: Tensor | None, apart: bool = False) -> Gradients:
            return differentiate(state, batch, weights, apart, ctx, self.directions)

        return {"loss": update(state, batch, estimate)}
