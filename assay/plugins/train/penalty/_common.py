"""What penalties on features share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from assay.plugins.contract import BadInput, Batch, Context, Data, tap


def feature_layer(model: nn.Module, layer: str) -> str:
    """The submodule whose output is the features: `layer`, or where that is empty the child before `head`."""
    if layer:
        return layer
    children = [name for name, _ in model.named_children()]
    return children[max(children.index("head") - 1, 0)] if "head" in children else "layers"


def features(ctx: Context, model: nn.Module, batch: Batch, layer: str) -> Tensor:
    """The features (N, D) of the step's shared pass."""
    name = feature_layer(model, layer)
    return ctx.activations(model, batch, [name])[name].flatten(1)


def layer_shapes(model: nn.Module, data: Data, names: Sequence[str], where: str) -> Mapping[str, torch.Size]:
    """The shapes (1, ...) of the named submodules' outputs for one example. Raises BadInput for an unknown name."""
    known = dict(model.named_modules())
    for name in names:
        if name not in known:
            raise BadInput(f"{where}: the model has no layer '{name}'; it has {', '.join(list(known)[1:])}")
    device = next(model.parameters()).device
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad(), tap(model, names) as seen:
            model(data.train.batch([0]).x.to(device))
    finally:
        for module, mode in modes:
            module.training = mode
    return {name: seen[name].shape for name in names}


def of_labelled(losses: Tensor, batch: Batch) -> Tensor:
    """Losses (N,) of which those without a label are 0, the others weighted so that their mean over the batch
    is the mean over the labelled examples, as the frame does with the objective."""
    if "labelled" not in batch:
        return losses
    share = batch.labelled.to(losses).mean().clamp_min(1 / batch.size)
    return torch.where(batch.labelled, losses, 0.0) / share
