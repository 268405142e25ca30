"""What studies share: losses of a model on a split, and weights between two models."""

from __future__ import annotations

import copy
from collections.abc import Collection

import numpy as np
import torch
from torch import nn

from assay.plugins.contract import BadInput, Lab, Split


def mean_loss_on(lab: Lab, model: nn.Module, split: Split, rows: int) -> float:
    """The mean of the recipe's objective on a split, `rows` examples at a time. Raises BadInput where the
    objective is no function of predictions alone."""
    if lab.loss is None:
        raise BadInput("study: the recipe's objective is no function of predictions alone")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with torch.no_grad():
        parts = [lab.loss(model(b.x.to(device)), b.to(device)).double().cpu() for b in split.batches(rows)]
    return float(torch.cat(parts).mean())


def mixed(a: nn.Module, b: nn.Module, alpha: float, only: Collection[str] | None = None) -> nn.Module:
    """A copy of `a` with weights (1 - alpha) a + alpha b: of all entries, or `only` of the named ones."""
    model = copy.deepcopy(a)
    other = b.state_dict()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point() and (only is None or name in only):
                value.lerp_(other[name].to(value), alpha)
    return model


def barrier(losses: np.ndarray, alphas: np.ndarray) -> float:
    """How far a loss between two models rises above the straight line between their own losses, at most."""
    return float((losses - ((1 - alphas) * losses[0] + alphas * losses[-1])).max())
