"""What the training-free metrics share: the network before its training, a minibatch, gradients of the loss."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from assay.plugins.contract import Batch, Context, NotAuditable, Number, Result, Subject

Loss = Callable[[Tensor, Batch], Tensor]
"""Predictions and a batch to the loss of each example (N,)."""

ADVICE = "`train.keep` must have 0"


def untrained(subject: Subject, over: Literal["model", "trajectory"], ctx: Context) -> nn.Module:
    """A copy of the network as it was before its training: the kept checkpoint of epoch 0; with `over: trajectory`
    the checkpoint that is asked about, as it is.

    It is in the mode of a first training step as far as that is deterministic: batch norms take the batch's
    statistics, dropout is off. Raises NotAuditable where epoch 0 was not kept.
    """
    if over == "trajectory":
        found = subject.model
    elif subject.trajectory is None:
        why = ADVICE if subject.reference is None else "it was made of a trained one"
        raise NotAuditable(f"it is asked of a network before its training, and this model has none: {why}")
    else:
        name, found = next(subject.trajectory())
        if int(name.rsplit("-", 1)[-1]) != 0:
            raise NotAuditable(f"it is asked of a network before its training, and {name} is the first kept: {ADVICE}")
    network = copy.deepcopy(found).to(ctx.device).eval().requires_grad_(True)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
    return network


def minibatch(subject: Subject, examples: int, ctx: Context) -> Batch:
    """Training examples drawn without replacement; all where there are fewer."""
    split = subject.data["main"].train
    chosen = torch.randperm(len(split), generator=ctx.rng)[:examples]
    return split.batch(chosen.sort().values).to(ctx.device)


def loss_of(subject: Subject) -> Loss:
    """The recipe's objective. Raises NotAuditable where that is no function of predictions alone."""
    if subject.loss is None:
        raise NotAuditable("the recipe's objective is no function of predictions alone")
    return subject.loss


def layers(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The convolutions and linear layers: the metrics look at their weights, not at biases or norms."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            yield name, module


def weights(network: nn.Module) -> list[Tensor]:
    """The weights of `layers`. Raises NotAuditable where there are none."""
    found: list[Tensor] = [module.weight for _, module in layers(network)]  # type: ignore[misc]
    if not found:
        raise NotAuditable("the network has no convolution and no linear layer")
    return found


def gradients(value: Tensor, of: Sequence[Tensor], graph: bool = False) -> tuple[Tensor, ...]:
    """The gradient of a number in each tensor, zero where it does not depend on one; `graph` lets the gradients be
    differentiated once more."""
    if not value.requires_grad:
        return tuple(torch.zeros_like(tensor) for tensor in of)
    return torch.autograd.grad(value, list(of), create_graph=graph, allow_unused=True, materialize_grads=True)


def answer(name: str, value: float, definition: str) -> Result:
    """One number of which more is better. Raises NotAuditable where it is NaN or infinite."""
    if not np.isfinite(value):
        raise NotAuditable(f"{name} is {value} on this network")
    return Result({name: Number(value, "", 1, definition)})
