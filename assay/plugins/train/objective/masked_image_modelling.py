"""Masked image modelling: what the missing patches looked like."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from assay.plugins.contract import Batch, Card, Context, Data, Field, Objective, patch, tap
from assay.plugins.train.objective._common import asked
from assay.plugins.train.objective._tokens import PATCHES, blocks, cut, take


class Painter(nn.Module):
    """The token that stands for a missing patch, and the layer that predicts a patch's pixels from its token."""

    def __init__(self, embedded: int, tokens: int, pixels: int):
        super().__init__()
        self.missing = nn.Parameter(torch.zeros(embedded))
        nn.init.trunc_normal_(self.missing, std=0.02)
        self.pixels = nn.Linear(tokens, pixels)


def absolute_error(painted: Tensor, true: Tensor) -> Tensor:
    """Mean absolute error of the missing patches' pixels (N,), both (N, missing, pixels)."""
    return (painted - true).abs().flatten(1).mean(dim=1)


class MaskedImageModelling(Objective):
    """The mean absolute error of the pixels of patches that the network does not see, predicted by one linear
    layer from the tokens in their places (SimMIM). Labels and the model's own head take no part.

    A drawn share of the patches, another in each image and step, has a learned token in the place of its
    embedding. The network must be a vision transformer.
    """

    card = Card(
        title="SimMIM: A Simple Framework for Masked Image Modeling",
        paper="arxiv:2111.09886",
        claim="Finetuned on few labels, a network that it trained first is more accurate than one from scratch.",
        verdict="reproduced",
        problems=("classification", "representation"),
        modality=("image",),
        needs=("activations",),
        coupled=True,
    )
    ratio: float = Field(0.6, gt=0, lt=1, description="share of the patches that are missing")

    def init(self, model: nn.Module, data: Data, ctx: Context) -> nn.Module:
        """The token and the layer. Raises BadInput where the network is no vision transformer."""
        blocks(model, "masked_image_modelling", "train.model")
        x = data.train.batch([0]).x.to(next(model.parameters()).device)
        _, seen = asked(model, x, "train.model", (PATCHES, "layers"))
        patches, width = seen[PATCHES].shape[1:]
        return Painter(width, seen["layers"].shape[2], cut(x, patches).shape[2])

    def loss(self, model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
        """The loss of each image (N,)."""
        assert isinstance(ctx.own, Painter)
        token = ctx.own.missing
        drawn: list[Tensor] = []

        def hide(embedded: Tensor) -> Tensor:
            n, patches, _ = embedded.shape
            order = torch.rand(n, patches, generator=ctx.rng).argsort(dim=1).to(embedded.device)
            drawn.append(order[:, : max(1, round(self.ratio * patches))])
            hidden = torch.zeros(n, patches, dtype=torch.bool, device=embedded.device).scatter(1, drawn[0], True)
            return torch.where(hidden[..., None], token.to(embedded), embedded)

        with patch(model, {PATCHES: hide}), tap(model, (PATCHES, "layers")) as seen:
            model(batch.x)
        painted = ctx.own.pixels(take(seen["layers"][:, 1:], drawn[0]))
        return absolute_error(painted, take(cut(batch.x, seen[PATCHES].shape[1]), drawn[0]))
