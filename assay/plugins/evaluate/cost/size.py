"""What a model costs to store, and its work for one example."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from assay.plugins.contract import Card, Context, Evaluator, NotAuditable, Number, Result, Subject, patch


def parameters(model: nn.Module) -> int:
    """Number of parameters, those shared by modules counted once."""
    return sum(p.numel() for p in model.parameters())


def nonzeros(model: nn.Module) -> int:
    """Number of parameters that are not zero."""
    return sum(int(torch.count_nonzero(p)) for p in model.parameters())


def per_output(module: nn.Module) -> int | None:
    """Multiplications for one number of the module's output; None where the module is not counted."""
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return module.weight.shape[1:].numel()
    return None


def macs(model: nn.Module, x: Tensor) -> int:
    """Multiply-accumulates of the convolutions and linear layers in one forward pass of `x`.

    A module that runs twice counts twice. Not counted: products of activations (attention's), biases,
    normalisation and pooling. Zeros count as any other weight.
    """
    total = 0

    def counter(cost: int) -> Callable[[Tensor], Tensor]:
        def count(output: Tensor) -> Tensor:
            nonlocal total
            total += output.numel() * cost
            return output

        return count

    costs = {name: per_output(module) for name, module in model.named_modules()}
    with patch(model, {name: counter(cost) for name, cost in costs.items() if cost is not None}), torch.no_grad():
        model(x)
    return total


class Size(Evaluator):
    """Stored bytes of the exported model, its parameters, how many are not zero, and its work.

    The multiply-accumulates are those of convolutions and linear layers for one example; products of
    activations, as in attention, are not counted, and zeros in the weights save none.
    """

    card = Card(title="Size of the exported model", needs=("runtime",))

    def numbers(self) -> tuple[str, ...]:
        return ("bytes", "parameters", "nonzeros", "macs")

    def evaluate(self, subject: Subject, ctx: Context) -> Result:
        if subject.exported is None:
            raise NotAuditable("the model has no exported file")
        example = subject.data["main"].test.batch([0]).x.to(ctx.device)
        numbers = {
            "bytes": Number(
                float(subject.exported.stat().st_size), "B", -1, "Size of the exported model's file in bytes."
            ),
            "parameters": Number(
                float(parameters(subject.model)), "", -1, "Number of the model's weights, zeros included."
            ),
            "nonzeros": Number(float(nonzeros(subject.model)), "", -1, "Number of the model's weights that are not 0."),
            "macs": Number(
                float(macs(subject.model, example)),
                "",
                -1,
                "Multiply-accumulates of convolutions and linear layers for one example, zeros included.",
            ),
        }
        return Result(numbers)
