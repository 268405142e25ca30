"""What optimizers and schedules promise."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import nn

from assay.plugins.testing.base import Case, demand, promise, reseed, twice
from assay.plugins.testing.watch import same, stored, stored_tensors

TOTALS = (1, 2, 7, 100)


def small_problem() -> tuple[nn.Sequential, list[dict[str, Any]]]:
    """A small network and its parameters in two groups, as the learner gives them."""
    reseed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))
    groups = [
        {"params": list(model[0].parameters()), "name": "model", "lr_scale": 1.0},
        {"params": list(model[2].parameters()), "name": "own", "lr_scale": 1.0},
    ]
    return model, groups


def descend(case: Case, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Steps down a fixed loss; the gradients hold their graph where the card needs it."""
    graph = "graph" in case.cls.card.needs
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))

    def closure() -> float:
        optimizer.zero_grad()
        with torch.enable_grad():
            loss = (model(x) - 1).square().mean()
        loss.backward(create_graph=graph)
        return float(loss)

    for _ in range(steps):
        closure()
        optimizer.step(closure)
    optimizer.zero_grad()


@promise("train/optimizer")
def resume(case: Case) -> None:
    """Two steps, its state stored without pickle and loaded, and two more are four steps, bit by bit."""
    whole, groups = small_problem()
    descend(case, whole, case.method.build(groups), 4)
    first, groups = small_problem()
    optimizer = case.method.build(groups)
    before = stored(first.state_dict())
    descend(case, first, optimizer, 2)
    demand(any(not torch.equal(v, before[k]) for k, v in first.state_dict().items()), "two steps change no weight")
    weights, state = stored_tensors(first.state_dict()), stored(optimizer.state_dict())
    draws = torch.get_rng_state()
    second, groups = small_problem()
    second.load_state_dict(weights)
    optimizer = case.method.build(groups)
    optimizer.load_state_dict(state)
    torch.set_rng_state(draws)
    descend(case, second, optimizer, 2)
    same(whole.state_dict(), second.state_dict(), "resumed and uninterrupted weights")
    demand(all(torch.isfinite(p).all() for p in second.parameters()), "weights are not finite")


@promise("train/optimizer")
def learning_rate(case: Case) -> None:
    """Groups start at `lr` and keep their names; a group whose rate is set to zero stays where it is."""
    model, groups = small_problem()
    optimizer = case.method.build(groups)
    demand([g.get("name") for g in optimizer.param_groups] == ["model", "own"], "the groups lost their names")
    for group in optimizer.param_groups:
        demand(math.isclose(group["lr"], case.method.lr), f"a group starts at {group['lr']}, not {case.method.lr}")
    optimizer.param_groups[1]["lr"] = 0.0
    before = stored(model.state_dict())
    descend(case, model, optimizer, 2)
    for name, values in model.state_dict().items():
        if name.startswith("2."):
            demand(torch.equal(values, before[name]), "a group with learning rate 0 moves")
        elif name == "0.weight":
            demand(not torch.equal(values, before[name]), "a group with a learning rate does not move")


def curve(case: Case, total: int) -> list[float]:
    """The factor at each step."""
    return [case.method.factor(step, total) for step in range(total)]


@promise("train/schedule")
def factor(case: Case) -> None:
    """Finite and not negative at every step of runs of any length, not zero throughout, and a function
    of step and total alone."""
    for total in TOTALS:
        factors, again = twice(partial(curve, case, total))
        demand(factors == again, f"of {total} steps: two calls differ")
        for step, value in enumerate(factors):
            demand(math.isfinite(value) and value >= 0, f"step {step} of {total}: factor {value}")
        demand(max(factors) > 0, f"of {total} steps none has a factor above 0")
