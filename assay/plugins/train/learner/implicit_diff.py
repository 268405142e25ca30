"""Weight decays that are learned on validation data while the weights are trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import Tensor, nn

from assay.plugins._networks import trained_parameters
from assay.plugins.contract import (
    BadInput,
    Batch,
    Bound,
    Card,
    Context,
    Data,
    Field,
    Learner,
    Split,
    State,
    Terms,
    mean_loss,
)
from assay.plugins.train.learner._common import descend, first_state

OWN, DECAYS = "learner", "decays"


def inverse_hessian_product(
    gradient: Sequence[Tensor], weights: Sequence[Tensor], v: Sequence[Tensor], alpha: float, terms: int
) -> list[Tensor]:
    """alpha sum_{j=0}^{terms} (I - alpha H)^j v, which tends to H^-1 v where alpha H has its eigenvalues in (0, 2).

    `gradient` is the training loss's in the weights, with its graph; H is that of the training loss.
    """
    part = list(v)
    total = list(v)
    for _ in range(terms):
        products = torch.autograd.grad(gradient, weights, part, retain_graph=True, materialize_grads=True)
        part = [p - alpha * h for p, h in zip(part, products, strict=True)]
        total = [t + p for t, p in zip(total, part, strict=True)]
    return [alpha * t for t in total]


def hypergradient(
    training: Tensor, validation: Tensor, weights: Sequence[Tensor], hypers: Sequence[Tensor], alpha: float, terms: int
) -> list[Tensor]:
    """The derivative of the validation loss in the hyper-parameters, through weights that minimise the training loss:
    -dL_V/dw H^-1 d2L_T/(dw dhyper), where L_V itself does not depend on them.
    """
    v = torch.autograd.grad(validation, weights, materialize_grads=True)
    gradient = torch.autograd.grad(training, weights, create_graph=True)
    product = inverse_hessian_product(gradient, weights, v, alpha, terms)
    return [-g for g in torch.autograd.grad(gradient, hypers, product)]


class Decays(nn.Module):
    """Logarithms of the weight decays, as buffers `decay0`, `decay1`, … in the order of the weights, and the data that
    they are learned on."""

    def __init__(self, weights: Sequence[Tensor], start: float, each: bool, validation: Split):
        super().__init__()
        for i, weight in enumerate(weights):
            shape = weight.shape if each else ()
            self.register_buffer(f"decay{i}", torch.full(shape, math.log(start), device=weight.device))
        self.validation = validation

    def forward(self, weights: Sequence[Tensor]) -> Tensor:
        """Half the sum of exp(decay) w^2 over all weights."""
        parts = [(log.exp() * w.square()).sum() for log, w in zip(self.buffers(), weights, strict=True)]
        return torch.stack(parts).sum() / 2


@dataclass(frozen=True)
class Decay:
    """The penalty."""

    decays: Decays

    def reads(self, model: nn.Module) -> Sequence[str]:
        """It reads no activations of the model's pass."""
        return ()

    def loss(self, model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
        """The decays' share of the training loss, a scalar."""
        return cast(Tensor, self.decays(trained_parameters(model)))


class ImplicitDiff(Learner):
    """Trains by gradient descent with a weight decay for each weight, or for each tensor of weights, and after every
    few steps moves the decays down the validation loss's gradient in them.

    That gradient is taken through the weights as a minimum of the training loss (implicit function theorem), with
    the inverse Hessian by a Neumann series. The training loss is the objective, the penalties and the decays on the
    batch, the validation loss the objective on as many validation examples in eval mode. Decays are followed by Adam
    on their logarithms. The data need a split `validation`.
    """

    card = Card(
        title="Optimizing Millions of Hyperparameters by Implicit Differentiation",
        paper="arxiv:1911.02590",
        claim="Weight decays tuned by implicit gradients lower the validation loss, many of them at once.",
        verdict="reproduced",
        needs=("validation",),
        gives=("closure", "graph", "activations"),
    )
    per: Literal["tensor", "weight"] = Field("tensor", description="what has a decay of its own")
    start: float = Field(1e-4, gt=0, le=1e3, description="each decay before training")
    every: int = Field(10, ge=1, le=1_000_000, description="training steps for one step of the decays", examples=[1])
    lr: float = Field(0.05, gt=0, le=10, description="step of the decays' logarithms, before the schedule's factor")
    terms: int = Field(20, ge=0, le=10_000, description="Hessian products of the Neumann series", examples=[3])
    alpha: float = Field(0.01, gt=0, le=100, description="scale of the series: under 2 over the largest curvature")

    def init(self, model: nn.Module, terms: Terms, data: Data, ctx: Context) -> State:  # type: ignore[override]
        """The state before the first step. Raises BadInput where the data have no split `validation`."""
        if "validation" not in data.splits:
            raise BadInput(
                "train.learner: implicit_diff tunes on a split `validation`, which the data have not; add "
                "transform/validation_split to prepare"
            )
        state = first_state(model, terms, data, ctx)
        decays = Decays(trained_parameters(model), self.start, self.per == "weight", data.splits["validation"])
        state.own[OWN] = decays
        state.optimizers[DECAYS] = torch.optim.Adam(list(decays.buffers()), lr=self.lr)
        state.terms = replace(terms, penalties=[*terms.penalties, Bound(Decay(decays), ctx, OWN)])
        return state

    def step(self, state: State, batch: Batch, ctx: Context) -> Mapping[str, Tensor]:
        """One update of the weights, and perhaps one of the decays; `loss` is the batch's mean training loss before
        it, `log_decay` the mean of the decays' logarithms after it."""
        state.model.train()
        loss = descend(state, batch)
        if (ctx.step + 1) % self.every == 0:
            self.tune(state, batch, ctx)
        logs = torch.cat([log.flatten() for log in state.own[OWN].buffers()])
        return {"loss": loss, "log_decay": logs.mean()}

    def tune(self, state: State, batch: Batch, ctx: Context) -> None:
        """One step of the decays. Raises BadInput where the series diverges."""
        decays = cast(Decays, state.own[OWN])
        order = torch.randperm(len(decays.validation), generator=ctx.rng)[: batch.size]
        held_out = decays.validation.batch(order.sort().values).to(ctx.device)
        state.model.eval()
        validation = mean_loss(replace(state.terms, penalties=[]).losses(state.model, held_out))
        state.model.train()
        logs = [log.requires_grad_() for log in decays.buffers()]
        try:
            training = mean_loss(state.terms.losses(state.model, batch))
            weights = trained_parameters(state.model)
            found = hypergradient(training, validation, weights, logs, self.alpha, self.terms)
        finally:
            for log in logs:
                log.requires_grad_(False)
        if not all(g.isfinite().all() for g in found):
            raise BadInput(
                f"train.learner.alpha: with {self.alpha} the Neumann series diverges; a smaller one is needed"
            )
        for log, g in zip(logs, found, strict=True):
            log.grad = g
        state.optimizers[DECAYS].step()
        state.optimizers[DECAYS].zero_grad(set_to_none=True)
