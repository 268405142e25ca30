"""What learners and predictions of many signals share: gradient steps on each signal by itself, all at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from assay.plugins.contract import Batch

Score = Callable[[Tensor, Batch], Tensor]
Weights = dict[str, Tensor]


def squared_error(output: Tensor, batch: Batch) -> Tensor:
    """Each example's mean squared error, (N,)."""
    return (output - batch.y).square().flatten(1).mean(dim=1)


def trainable(model: nn.Module) -> Weights:
    """The model's trainable parameters by name, detached."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def signal_loss(model: nn.Module, score: Score) -> Callable[[Weights, Tensor, Tensor], Tensor]:
    """The loss of one signal, a function of weights, coordinates (P, d) and values (P, c)."""

    def loss(weights: Weights, x: Tensor, y: Tensor) -> Tensor:
        output = torch.func.functional_call(model, weights, (x[None],))
        return score(output, Batch({"x": x[None], "y": y[None]})).mean()

    return loss


def losses_of(model: nn.Module, weights: Weights, x: Tensor, y: Tensor, score: Score) -> Tensor:
    """The loss of each signal (N,) with its own weights, (N, *shape) each."""
    found: Tensor = torch.func.vmap(signal_loss(model, score))(weights, x, y)
    return found


def adapted(
    model: nn.Module, start: Mapping[str, Tensor], x: Tensor, y: Tensor, steps: int, lr: float, score: Score
) -> Weights:
    """Weights (N, *shape) after gradient steps on each signal by itself, all from the same `start`; points x
    (N, P, d) with values y (N, P, c). Can be differentiated in `start`."""
    gradient = torch.func.vmap(torch.func.grad(signal_loss(model, score)))
    weights = {name: value.expand(len(x), *value.shape) for name, value in start.items()}
    for _ in range(steps):
        slope = gradient(weights, x, y)
        weights = {name: value - lr * slope[name] for name, value in weights.items()}
    return weights
