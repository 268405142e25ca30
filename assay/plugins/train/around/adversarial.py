"""Adversarial training by projected gradient descent."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from assay.plugins.contract import (
    Around,
    Batch,
    Card,
    Context,
    DataSpec,
    Field,
    Gradients,
    NextGradients,
    State,
)
from assay.plugins.train.around._common import frozen_statistics

Norm = Literal["linf", "l2"]


def pgd(
    gradient: Callable[[Tensor], Tensor],
    x: Tensor,
    start: Tensor,
    spec: DataSpec,
    norm: Norm,
    eps: float,
    step_size: float,
    steps: int,
) -> Tensor:
    """Inputs within `eps` of `x` (N, ...) at which the loss is high, by `steps` projected ascent steps.

    `gradient(x)` is the loss's gradient at inputs, `start` the first displacement. Displacements, `eps`
    and `step_size` are in pixel units; results stay within the valid pixels' bounds.
    """
    scale, low, high = (per_channel(bound, x) for bound in (spec.scale, *spec.valid))
    delta = start
    for _ in range(steps):
        at = (x + delta * scale).clamp(low, high)
        delta = (at - x) / scale
        delta = project(delta + step_size * steepest(gradient(at) * scale, norm), norm, eps)
    return (x + delta * scale).clamp(low, high)


def steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """For each example the direction of steepest ascent among those of norm 1."""
    if norm == "linf":
        return gradient.sign()
    return gradient / lengths(gradient).clamp_min(torch.finfo(gradient.dtype).tiny)


def project(delta: Tensor, norm: Norm, eps: float) -> Tensor:
    """Each example's closest point in the ball of radius `eps`."""
    if norm == "linf":
        return delta.clamp(-eps, eps)
    return delta * (eps / lengths(delta).clamp_min(eps))


def random_start(x: Tensor, norm: Norm, eps: float, rng: torch.Generator) -> Tensor:
    """For each example a uniform draw from the ball of radius `eps`."""
    if norm == "linf":
        return ((torch.rand(x.shape, generator=rng) * 2 - 1) * eps).to(x)
    direction = torch.randn(x.shape, generator=rng)
    radius = torch.rand((len(x), *[1] * (x.ndim - 1)), generator=rng) ** (1 / x[0].numel())
    return (direction / lengths(direction) * radius * eps).to(x)


def lengths(values: Tensor) -> Tensor:
    """Euclidean norm of each example, shaped to broadcast."""
    return values.flatten(1).norm(dim=1).view(-1, *[1] * (values.ndim - 1))


def per_channel(values: Sequence[float], x: Tensor) -> Tensor:
    """One number a channel (or one for all), shaped to broadcast over `x`."""
    return torch.tensor(values, dtype=x.dtype, device=x.device).view(-1, *[1] * (x.ndim - 2))


@contextlib.contextmanager
def attacked(model: nn.Module, training: bool) -> Iterator[None]:
    """Inside the block all layers are in one mode and running statistics stay as they are."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.train(training)
        with frozen_statistics(model):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


class Adversarial(Around):
    """Trains on inputs changed by PGD to raise the objective (penalties are not attacked).

    Only the batch passed on is changed. Attack passes leave running statistics of normalisation layers
    as they are; they are updated by the pass on the adversarial batch.
    """

    card = Card(
        title="Towards Deep Learning Models Resistant to Adversarial Attacks",
        paper="arxiv:1706.06083",
        claim="Under a PGD attack its accuracy is much higher than that of plain training.",
        verdict="reproduced",
        modality=("image",),
    )
    norm: Norm = Field("linf", description="norm of the ball: linf or l2")
    eps: float = Field(8 / 255, gt=0, description="radius of the ball in pixel units (pixels run from 0 to 1)")
    steps: int = Field(7, ge=1, le=1000, description="ascent steps a batch")
    step_size: float | None = Field(
        None, gt=0, description="length of an ascent step in pixel units; 2.5 * eps / steps where empty"
    )
    random: bool = Field(True, description="start at a random point of the ball instead of at the input")
    attack_mode: Literal["train", "eval"] = Field(
        "train", description="the model's mode during the attack; the paper's code attacks in training mode"
    )

    def gradients(self, next: NextGradients, state: State, batch: Batch, ctx: Context) -> Gradients:
        terms = replace(state.terms, penalties=[])

        def gradient(at: Tensor) -> Tensor:
            at = at.detach().requires_grad_()
            with terms.autocast():
                loss = terms.losses(state.model, batch.replace(x=at)).sum()
            return torch.autograd.grad(loss, at)[0]

        step_size = self.step_size or 2.5 * self.eps / self.steps
        start = random_start(batch.x, self.norm, self.eps, ctx.rng) if self.random else torch.zeros_like(batch.x)
        with attacked(state.model, self.attack_mode == "train"):
            x = pgd(gradient, batch.x, start, ctx.spec, self.norm, self.eps, step_size, self.steps)
        return next(batch.replace(x=x))
