"""What objectives with a teacher share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from assay.plugins.contract import BadInput, Context, tap


def named_model(ctx: Context, role: str, objective: str) -> nn.Module:
    """The frozen model of a role. Raises BadInput where the recipe gives none."""
    if role not in ctx.models:
        raise BadInput(
            f"train.models: the objective {objective} needs a {role}; say `{role}: NAME`, a name in `trainings`"
        )
    return ctx.models[role]


def asked(model: nn.Module, x: Tensor, whose: str, names: Sequence[str] = ()) -> tuple[Tensor, dict[str, Tensor]]:
    """The prediction of a model, and the outputs of the named submodules, without gradients. Raises BadInput where
    it cannot take such inputs: it has learned data of another shape."""
    try:
        with torch.no_grad(), tap(model, names) as seen:
            return model(x), seen
    except RuntimeError as error:
        raise BadInput(f"{whose}: it cannot take inputs of shape {list(x.shape[1:])}: {error}") from error
