"""Samples of a flow by solving its differential equation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from assay.plugins.contract import Batch, Card, Context, Field, NotAuditable, Predict, takes_time

Velocity = Callable[[Tensor, float], Tensor]
Solver = Literal["euler", "midpoint", "rk4"]


def euler(velocity: Velocity, x: Tensor, t: float, h: float) -> Tensor:
    """x + h v(x, t)."""
    return x + h * velocity(x, t)


def midpoint(velocity: Velocity, x: Tensor, t: float, h: float) -> Tensor:
    """x + h v(x + h/2 v(x, t), t + h/2)."""
    return x + h * velocity(x + h / 2 * velocity(x, t), t + h / 2)


def rk4(velocity: Velocity, x: Tensor, t: float, h: float) -> Tensor:
    """The classical Runge-Kutta step of fourth order."""
    k1 = velocity(x, t)
    k2 = velocity(x + h / 2 * k1, t + h / 2)
    k3 = velocity(x + h / 2 * k2, t + h / 2)
    k4 = velocity(x + h * k3, t + h)
    return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


STEPS = {"euler": euler, "midpoint": midpoint, "rk4": rk4}


def solve(velocity: Velocity, x: Tensor, steps: int, solver: Solver) -> Tensor:
    """The solution of dx/dt = v(x, t) at time 1 from `x` at time 0, by equal steps."""
    h = 1.0 / steps
    for i in range(steps):
        x = STEPS[solver](velocity, x, i * h, h)
    return x


class OdeSampler(Predict):
    """Draws of a model of velocities: standard normal noise, an example's own by its number, carried from time
    0 to time 1.

    A step of `euler` asks the network once, one of `midpoint` twice, one of `rk4` four times.
    """

    card = Card(
        title="Flow Matching for Generative Modeling",
        paper="arxiv:2210.02747",
        problems=("generation",),
        drops=("grad",),
    )
    steps: int = Field(20, ge=1, le=10_000, examples=[3], description="equal steps from time 0 to time 1")
    solver: Solver = Field("midpoint", description="the rule of one step")

    def predict(self, model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
        """Draws (N, *shape). Raises NotAuditable where the network takes no time."""
        if not takes_time(model):
            raise NotAuditable("its network takes no time: it models no velocity")
        noise = ctx.normal(batch.index, ctx.spec.shape)

        def velocity(x: Tensor, t: float) -> Tensor:
            found: Tensor = model(x, torch.full((len(x),), t, device=x.device))
            return found

        with torch.no_grad():
            return solve(velocity, noise, self.steps, self.solver)
