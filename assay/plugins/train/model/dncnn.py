"""A convolutional network that says what is wrong with an image."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from assay.plugins.contract import Card, Context, DataSpec, Field, Model
from assay.plugins.train.model._common import image_shape


class Restorer(nn.Module):
    """`layers` and `head` in a row; with `residual` their output is what is taken from the image."""

    def __init__(self, layers: nn.Module, head: nn.Module, residual: bool):
        super().__init__()
        self.layers, self.head, self.residual = layers, head, residual

    def forward(self, x: Tensor) -> Tensor:
        """Degraded images (N, C, H, W) to restored ones."""
        found: Tensor = self.head(self.layers(x))
        return x - found if self.residual else found


class DnCNN(Model):
    """3 x 3 convolutions at full resolution, batch norm in all but the first and the last, which predict the
    residual: the degraded image minus the clean one.

    The paper's networks have a depth of 17 to 20 and 64 channels. That residual learning also ends better, as
    the paper finds at that depth, does not show in miniature: with strong noise a shallow network that predicts
    the image catches up.
    """

    card = Card(
        title="Beyond a Gaussian Denoiser: Residual Learning of Deep CNN for Image Denoising",
        paper="arxiv:1608.03981",
        claim="Predicting the residual speeds up training: after few epochs such a network denoises better than one "
        "that predicts the clean image.",
        verdict="reproduced",
        problems=("restoration",),
        modality=("image",),
    )
    depth: int = Field(6, ge=2, le=64, description="convolutions in all")
    width: int = Field(32, ge=1, le=1024, description="channels between them")
    residual: bool = Field(True, description="predict the residual; false: the clean image itself")

    def build(self, spec: DataSpec, ctx: Context) -> nn.Module:
        """`layers`: all convolutions but the last; `head`: the last one, back to the image's channels.

        Raises BadInput where the examples are no images.
        """
        channels, _, _ = image_shape(spec, "dncnn")
        first = OrderedDict(conv=nn.Conv2d(channels, self.width, 3, padding=1), relu=nn.ReLU())
        stages: OrderedDict[str, nn.Module] = OrderedDict(stage1=nn.Sequential(first))
        for i in range(2, self.depth):
            convolution = nn.Conv2d(self.width, self.width, 3, padding=1, bias=False)
            parts = OrderedDict(conv=convolution, norm=nn.BatchNorm2d(self.width), relu=nn.ReLU())
            stages[f"stage{i}"] = nn.Sequential(parts)
        head = nn.Conv2d(self.width, channels, 3, padding=1)
        return Restorer(nn.Sequential(stages), head, self.residual)
