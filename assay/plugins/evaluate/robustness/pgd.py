"""Accuracy under projected gradient descent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from assay.plugins.contract import Batch, Card, Context, Evaluator, Field, NotAuditable, Result, Subject
from assay.plugins.evaluate._common import mean_number, pixels

Norm = Literal["linf", "l2"]


@dataclass(frozen=True)
class Budget:
    """What the attack may do, in pixel units: radius, length of a step, their number, the norm."""

    eps: float
    step: float
    steps: int
    norm: Norm


@dataclass(frozen=True)
class Attacked:
    """For each example: the input with the smallest margin met, that margin, and whether any gradient
    met on the way was not all zero."""

    x: Tensor
    margin: Tensor
    moved: Tensor


def margins(logits: Tensor, y: Tensor) -> Tensor:
    """The true class's logit minus the largest other one (N,): negative where the answer is wrong."""
    others = logits.scatter(1, y[:, None], -torch.inf)
    return logits.gather(1, y[:, None]).squeeze(1) - others.amax(dim=1)


def project(delta: Tensor, eps: float, norm: Norm) -> Tensor:
    """The nearest perturbation (N, ...) inside the ball of radius `eps`."""
    if norm == "linf":
        return delta.clamp(-eps, eps)
    length = delta.flatten(1).norm(dim=1).reshape(-1, *[1] * (delta.ndim - 1))
    return delta * (eps / length.clamp_min(1e-12)).clamp_max(1.0)


def steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """The direction of unit norm in which the loss grows fastest; zero where the gradient is zero."""
    if norm == "linf":
        return gradient.sign()
    shape = (-1, *[1] * (gradient.ndim - 1))
    # Dividing by the largest entry first keeps the squares of tiny gradients from vanishing.
    scaled = gradient / gradient.flatten(1).abs().amax(dim=1).reshape(shape).clamp_min(1e-38)
    return scaled / scaled.flatten(1).norm(dim=1).reshape(shape).clamp_min(1e-12)


def start(batch: Batch, restarts: int, eps: float, norm: Norm, ctx: Context) -> Tensor:
    """Random perturbations (N, restarts, *shape), uniform in the ball, example i's from `index[i]` alone."""
    shape = batch.x.shape[1:]
    if norm == "linf":
        return eps * (2 * ctx.uniform(batch.index, (restarts, *shape)) - 1)
    # The first d of d + 2 coordinates of a uniform point on the sphere are uniform in the d-ball.
    draws = ctx.normal(batch.index, (restarts, shape.numel() + 2))
    ball = draws[..., :-2] / draws.norm(dim=-1, keepdim=True)
    return eps * ball.reshape(len(draws), restarts, *shape)


def slope(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of each example's cross-entropy with respect to its input, and its margin (N,).

    Raises NotAuditable where there is no gradient, or one that is not finite.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = model(x)
        loss = nn.functional.cross_entropy(logits, y, reduction="sum")
        gradient = torch.autograd.grad(loss, x, allow_unused=True)[0] if loss.requires_grad else None
    if gradient is None:
        raise NotAuditable("no gradient reaches the input (gradient masking): robust accuracy would mean nothing")
    if not torch.isfinite(gradient).all():
        raise NotAuditable("the gradient of the loss with respect to the input is NaN or infinite")
    return gradient, margins(logits.detach(), y)


def attack(
    model: nn.Module, x: Tensor, y: Tensor, delta: Tensor, budget: Budget, bounds: tuple[Tensor, Tensor, Tensor]
) -> Attacked:
    """Projected gradient ascent of the cross-entropy from `x + delta`.

    `x`, `delta` (N, *shape) and `y` (N,) on the model's device; `delta` in pixel units; `bounds` are low,
    high and scale of the pixels. Every point met counts, the clean input first, not the last one alone.
    """
    low, high, scale = bounds
    gradient, margin = slope(model, x, y)
    found = Attacked(x, margin, gradient.flatten(1).ne(0).any(dim=1))
    for _ in range(budget.steps):
        point = (x + delta * scale).clamp(low, high)
        gradient, margin = slope(model, point, y)
        found = worse(found, point, margin, gradient.flatten(1).ne(0).any(dim=1))
        moved = (point - x) / scale + budget.step * steepest(gradient * scale, budget.norm)
        delta = project(moved, budget.eps, budget.norm)
    point = (x + delta * scale).clamp(low, high)
    with torch.no_grad():
        return worse(found, point, margins(model(point), y), found.moved)


def worse(found: Attacked, x: Tensor, margin: Tensor, moved: Tensor) -> Attacked:
    """Of what was found and a new point, for each example the one with the smaller margin."""
    better = margin < found.margin
    kept = torch.where(better.reshape(-1, *[1] * (x.ndim - 1)), x, found.x)
    return Attacked(kept, torch.minimum(margin, found.margin), found.moved | moved)


class PGD(Evaluator):
    """Accuracy on test examples moved by projected gradient descent to where the model errs.

    The attack uses the gradients of predictions (of an int8 model: its fake-quantised twin's; of a run with a method
    of `predict`: through that) and the deployed predictions judge its result, so for int8 `robust` is also a matter
    of transfer. An example counts as
    robust if it is right both clean and attacked, so `robust` never exceeds `clean`, the accuracy on the
    same examples. It is an upper bound: a stronger attack may find more. `masked` warns where the gradient
    was exactly zero everywhere it was looked at, which says nothing about robustness; where that holds for
    every correctly answered example the model is not auditable.
    """

    card = Card(
        title="Towards Deep Learning Models Resistant to Adversarial Attacks",
        paper="arxiv:1706.06083",
        claim="Small perturbations found by projected gradient descent, far worse than random ones of the same "
        "size, break a plainly trained network, and much less so one trained on them.",
        verdict="reproduced",
        problems=("classification",),
        needs=("grad",),
    )
    eps: float = Field(0.1, ge=0, description="radius of the perturbation, in pixel units ([0, 1] is the whole range)")
    norm: Norm = Field("linf", description="norm of the perturbation: the largest change of a pixel, or l2")
    steps: int = Field(10, ge=1, description="gradient steps of each start")
    step_size: float | None = Field(None, gt=0, description="a step's length as a share of eps; 2.5 / steps if not set")
    restarts: int = Field(1, ge=1, description="random starts; the worst counts")
    random_start: bool = Field(True, description="start from a random point of the ball, not from the example")
    examples: int = Field(256, ge=1, description="number of test examples, drawn by the seed; all if there are fewer")

    def numbers(self) -> tuple[str, ...]:
        return ("robust", "clean", "masked")

    def evaluate(self, subject: Subject, ctx: Context) -> Result:
        split = subject.data["main"].test
        chosen = torch.randperm(len(split), generator=ctx.rng)[: self.examples].sort().values
        parts = [self.judge(subject, split.batch(part), ctx) for part in chosen.split(ctx.batch_limit)]
        clean, attacked, moved = (np.concatenate(values) for values in zip(*parts, strict=True))
        if clean.any() and not moved[clean].any():
            raise NotAuditable(
                "every gradient that the attack met is zero (gradient masking): robust accuracy would mean nothing"
            )
        numbers = {
            "robust": mean_number(
                clean & attacked, "Share of test examples answered right both as they are and under attack.", 1
            ),
            "clean": mean_number(clean, "Share of the attacked examples answered right before the attack.", 1),
            "masked": mean_number(
                ~moved, "Share of the attacked examples whose gradients were all exactly zero: a caution.", 0
            ),
        }
        return Result(numbers, {"index": chosen.numpy()})

    def judge(self, subject: Subject, batch: Batch, ctx: Context) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each example: right before the attack, right after it, any gradient met at all (booleans)."""
        on = batch.to(ctx.device)
        bounds = pixels(subject.spec, on.x)
        share = 2.5 / self.steps if self.step_size is None else self.step_size
        budget = Budget(self.eps, share * self.eps, self.steps, self.norm)
        if self.random_start:
            starts = start(on, self.restarts, self.eps, self.norm, ctx).unbind(dim=1)
        else:
            starts = (torch.zeros_like(on.x),)
        found = attack(subject.answering, on.x, on.y, starts[0], budget, bounds)
        for delta in starts[1:]:
            again = attack(subject.answering, on.x, on.y, delta, budget, bounds)
            found = worse(found, again.x, again.margin, again.moved)
        answers = [subject.predict(b).argmax(dim=1).cpu() == batch.y for b in (batch, batch.replace(x=found.x.cpu()))]
        return answers[0].numpy(), answers[1].numpy(), found.moved.cpu().numpy()
