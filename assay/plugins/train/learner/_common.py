"""What several learners share: refusing what they have no place for, gradient steps on many signals at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from assay.plugins.contract import BadInput, Batch, Terms

Score = Callable[[Tensor, Batch], Tensor]
Weights = dict[str, Tensor]


def objective_only(terms: Terms, learner: str) -> None:
    """Raises BadInput where the recipe has penalties or arounds, which a learner with steps of its own does not
    ask, or an optimizer that makes the gradients itself."""
    for what, bounds in (("penalty", terms.penalties), ("around", terms.around)):
        if bounds:
            name = bounds[0].method.method_name()
            raise BadInput(f"train.{what}: {learner} has steps of its own and no place for {name}; leave it out")
    if "closure" in terms.optimizer.card.needs:
        raise BadInput(
            f"train.optimizer: {learner} has gradients of its own; take one that does not make them, as adamw"
        )


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
