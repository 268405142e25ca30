"""What methods of several slots ask of a network: its trainable parameters, its layers with weights."""

from __future__ import annotations

from torch import nn


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that a training changes, in the model's order."""
    return [p for p in model.parameters() if p.requires_grad]


def weighted_parts(layers: nn.Module) -> list[list[str]]:
    """The names of the children by weighted layer: each part is a child with parameters and the ones without that
    follow it (activation, pooling); those before the first belong to it. Empty where no child has parameters."""
    parts: list[list[str]] = []
    before: list[str] = []
    for name, child in layers.named_children():
        if next(child.parameters(), None) is not None:
            parts.append([*before, name])
            before = []
        elif parts:
            parts[-1].append(name)
        else:
            before.append(name)
    return parts
