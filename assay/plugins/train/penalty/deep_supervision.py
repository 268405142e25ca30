"""Classifiers on hidden layers, beside the one at the end."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from assay.plugins._networks import weighted_parts
from assay.plugins.contract import BadInput, Batch, Card, Context, Data, Field, Penalty
from assay.plugins.train.penalty._common import layer_shapes, of_labelled


def hidden_layers(model: nn.Module) -> list[str]:
    """The ends of the weighted layers inside `layers`, but the last."""
    return [f"layers.{part[-1]}" for part in weighted_parts(model.get_submodule("layers"))[:-1]]


def averaged(activations: Tensor) -> Tensor:
    """Activations (N, D): feature maps (N, D, H, W) and tokens (N, T, D) at their mean over places."""
    if activations.ndim == 3:
        return activations.mean(dim=1)
    return activations.flatten(2).mean(dim=2) if activations.ndim > 3 else activations


def squared_hinge(output: Tensor, y: Tensor) -> Tensor:
    """sum over k != y of max(0, 1 - (output_y - output_k))^2, (N,)."""
    lag = (1 - output.gather(1, y[:, None]) + output).clamp_min(0).square()
    return lag.sum(dim=1) - 1  # k = y gives 1


class DeepSupervision(Penalty):
    """weight * (1 - progress) * sum over hidden layers of max(0, companion loss - threshold): a linear
    classifier of its own on each hidden layer, whose strength falls to 0 over the training.

    A companion's loss is the batch's mean, so that one that is good enough stops. The paper's factor,
    alpha_m * 0.1 * (1 - t / N), is `weight` with the 0.1 in it. Its L2 term on the classifiers is the
    optimizer's weight decay. Maps and tokens are averaged over places before they are classified.
    """

    card = Card(
        title="Deeply-Supervised Nets",
        paper="arxiv:1409.5185",
        claim="A deep network whose gradients vanish trains, where without companions it does not.",
        verdict="reproduced",
        problems=("classification",),
        coupled=True,
    )
    weight: float = Field(0.1, ge=0, description="factor on each companion's loss at the start of the training")
    threshold: float = Field(0.0, ge=0, description="gamma, the mean loss at which a companion stops")
    kind: Literal["cross_entropy", "squared_hinge"] = Field("cross_entropy", description="the companions' loss")
    layers: tuple[str, ...] = Field(
        (), description="submodules to supervise; all hidden layers but the last where empty"
    )

    def reads(self, model: nn.Module) -> tuple[str, ...]:
        """The supervised layers. Raises BadInput where there are none."""
        found = self.layers or tuple(hidden_layers(model))
        if not found:
            raise BadInput(
                "train.penalty: deep_supervision finds no hidden layer but the last; "
                "take a deeper model or name the submodules in `layers`"
            )
        return found

    def init(self, model: nn.Module, data: Data, ctx: Context) -> nn.Module:
        """A linear classifier for each layer."""
        shapes = layer_shapes(model, data, self.reads(model), "train.penalty: deep_supervision.layers")
        widths = [averaged(torch.empty(shape)).shape[1] for shape in shapes.values()]
        return nn.ModuleList(nn.Linear(width, data.spec.n_outputs) for width in widths)

    def companion(self, output: Tensor, batch: Batch) -> Tensor:
        """A companion's loss (N,) of the labelled examples; labels may be probabilities."""
        if self.kind == "squared_hinge":
            y = batch.y.argmax(dim=1) if batch.y.is_floating_point() else batch.y
            return of_labelled(squared_hinge(output, y), batch)
        return of_labelled(F.cross_entropy(output, batch.y, reduction="none"), batch)

    def loss(self, model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
        """The weighted companions' losses (N,), whose mean is that of the batch's hinge."""
        assert isinstance(ctx.own, nn.ModuleList)
        seen = ctx.activations(model, batch, self.reads(model))
        total = torch.zeros((), device=batch.x.device)
        for head, activations in zip(ctx.own, seen.values(), strict=True):
            losses = self.companion(head(averaged(activations)), batch) - self.threshold
            total = total + losses * (losses.detach().mean() > 0)
        return self.weight * (1 - ctx.progress) * total
