"""Random pruning: the floor that every criterion must beat."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from assay.plugins.contract import BadInput, Card, Context, Data, Field, Link, Record


def random_mask(shape: torch.Size, sparsity: float, rng: torch.Generator) -> Tensor:
    """A boolean mask, False at `sparsity` of its entries (rounded), drawn without replacement."""
    keep = torch.ones(shape.numel(), dtype=torch.bool)
    keep[torch.randperm(shape.numel(), generator=rng)[: round(sparsity * shape.numel())]] = False
    return keep.view(shape)


@torch.no_grad()
def impose(model: nn.Module, record: Record) -> None:
    """Sets the pruned weights to zero, in place."""
    for name, mask in record.tensors.items():
        weight = model.get_parameter(name)
        weight.masked_fill_(~mask.to(weight.device), 0.0)


class RandomPrune(Link):
    """Sets a random share of each weight matrix and kernel to zero; biases and norms stay. What other
    pruning criteria must beat at the same sparsity."""

    card = Card(
        title="What is the State of Neural Network Pruning?",
        paper="arxiv:2003.03033",
        needs=("float",),
    )
    sparsity: float = Field(0.5, ge=0, lt=1, description="share of each layer's weights that becomes zero")

    def fit(self, model: nn.Module, data: Data, ctx: Context) -> Record:
        """One mask for each parameter of two or more axes. Raises BadInput where there is none."""
        weights = {name: p for name, p in model.named_parameters() if p.ndim > 1}
        if not weights:
            raise BadInput("prune/random: the model has no weight matrices or kernels")
        return Record(tensors={name: random_mask(p.shape, self.sparsity, ctx.rng) for name, p in weights.items()})

    def apply(self, model: nn.Module, record: Record) -> nn.Module:
        model = copy.deepcopy(model)
        impose(model, record)
        return model

    def constraint(self, model: nn.Module, record: Record) -> Callable[[], None]:
        """What is zero now is zero again after each training step: a later link may have cut a layer, or put
        others in its place, so that the masks need not fit any more."""
        present = dict(model.named_parameters())
        zeros = [(present[name], present[name].detach() == 0) for name in record.tensors if name in present]

        @torch.no_grad()
        def restore() -> None:
            for weight, zero in zeros:
                weight.masked_fill_(zero, 0.0)

        return restore
