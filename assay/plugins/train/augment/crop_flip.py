"""Random crops of the padded image, and horizontal flips."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from assay.plugins.contract import Augment, BadInput, Batch, Card, Context, Field


def mirrored(at: Tensor, size: int) -> Tensor:
    """Positions outside [0, size) reflected into it, the edge pixel not repeated."""
    return (size - 1) - ((size - 1) - at.abs()).abs()


def look_up(images: Tensor, rows: Tensor, columns: Tensor, fill: Tensor | None) -> Tensor:
    """out[n, c, i, j] = images[n, c, rows[n, i], columns[n, j]] for images (N, C, H, W).

    Positions outside the image take `fill` (C,), or are reflected where it is None.
    """
    n, channels, height, width = images.shape
    r, c = mirrored(rows, height), mirrored(columns, width)
    if fill is not None:
        r, c = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    example = torch.arange(n, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    out = images[example, channel, r[:, None, :, None], c[:, None, None, :]]
    if fill is None:
        return out
    inside = ((rows == r)[:, :, None] & (columns == c)[:, None, :])[:, None]
    return torch.where(inside, out, fill[None, :, None, None])


class CropFlip(Augment):
    """Pads each image, crops it at a random place back to its size, and flips it sideways by chance.

    Drawn for each example. The fields `mask` and `y`, where they are maps (N, H, W), move with their image (the
    padding's label is 0); a second view `x2` has its own draws. The flip suits photographs; set it to 0 for
    digits, letters and whatever else is not its mirror image.
    """

    card = Card(
        title="Deeply-Supervised Nets",
        paper="arxiv:1409.5185",
        also=("arxiv:1512.03385",),
        claim="With random crops a network makes fewer errors on shifted test images.",
        verdict="reproduced",
        problems=("classification", "regression", "representation", "segmentation"),
        modality=("image",),
    )
    padding: int = Field(4, ge=0, le=64, description="pixels added on each side; the largest shift")
    flip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip; wrong for digits and text")
    fill: Literal["zero", "reflect"] = Field(
        "zero", description="the padding: the darkest valid pixel, or the image mirrored"
    )

    def augment(self, batch: Batch, ctx: Context) -> Batch:
        """Raises BadInput where `reflect` asks for more pixels than the image has."""
        height, width = batch.x.shape[2:]
        if self.fill == "reflect" and self.padding >= min(height, width):
            raise BadInput(
                f"train.augment crop_flip.padding: {self.padding} pixels cannot be reflected from images of "
                f"{height} x {width}; at most {min(height, width) - 1}"
            )
        rows, columns = self.places(batch, ctx)
        moved = {"x": self.moved(batch.x, rows, columns, ctx)}
        for name in ("mask", "y"):
            if name in batch and batch[name].ndim == 3:
                labels = batch[name][:, None]
                fill = None if self.fill == "reflect" else labels.new_zeros(1)
                moved[name] = look_up(labels, rows, columns, fill)[:, 0]
        if "x2" in batch:
            moved["x2"] = self.moved(batch.x2, *self.places(batch, ctx), ctx)
        return batch.replace(**moved)

    def places(self, batch: Batch, ctx: Context) -> tuple[Tensor, Tensor]:
        """The row (N, H) and column (N, W) of the image that each row and column of the view shows."""
        n, _, height, width = batch.x.shape
        shift = torch.randint(-self.padding, self.padding + 1, (2, n, 1), generator=ctx.rng)
        flipped = torch.rand(n, 1, generator=ctx.rng) < self.flip
        rows = shift[0] + torch.arange(height)
        columns = shift[1] + torch.arange(width)
        columns = torch.where(flipped, columns.flip(1), columns)
        return rows.to(batch.x.device), columns.to(batch.x.device)

    def moved(self, x: Tensor, rows: Tensor, columns: Tensor, ctx: Context) -> Tensor:
        """Images as the view shows them."""
        dark = torch.tensor(ctx.spec.low, dtype=x.dtype, device=x.device).expand(x.shape[1])
        return look_up(x, rows, columns, None if self.fill == "reflect" else dark)
