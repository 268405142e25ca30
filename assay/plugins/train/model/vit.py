"""A small vision transformer."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn

from assay.plugins.contract import BadInput, Card, Context, DataSpec, Field, Model
from assay.plugins.train.model._common import image_shape
from assay.plugins.train.model._transformer import Block


class Embed(nn.Module):
    """Flattened patches, linearly embedded, after a learned class token, plus learned positions.

    (N, C, H, W) to (N, 1 + patches, dim). A linear layer and not a strided convolution, its equal, because
    integer kernels of convolutions need an integer output, which the token and positions do not take.
    """

    def __init__(self, channels: int, patches: int, patch: int, dim: int):
        super().__init__()
        self.patch = patch
        self.linear = nn.Linear(channels * patch * patch, dim)
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.position = nn.Parameter(torch.zeros(1, 1 + patches, dim))
        nn.init.trunc_normal_(self.token, std=0.02)
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        cut = x.reshape(n, channels, height // self.patch, self.patch, width // self.patch, self.patch)
        patches = self.linear(cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2))
        token = self.token.expand(n, -1, -1)
        return torch.cat([token, patches], dim=1) + self.position


class Pool(nn.Module):
    """The class token, or the mean of the patches' tokens: (N, tokens, dim) to (N, dim)."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0] if self.kind == "token" else x[:, 1:].mean(dim=1)


def initialise(model: nn.Module) -> None:
    """The paper's initialisation of the linear layers: Xavier uniform, biases zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)


class ViT(Model):
    """A vision transformer: patches as tokens, pre-norm blocks, a class token or mean pooling."""

    card = Card(
        title="An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
        paper="arxiv:2010.11929",
        claim="With few training images a vision transformer is less accurate than a convolutional network.",
        verdict="reproduced",
        modality=("image",),
    )
    patch: int = Field(4, ge=1, le=64, description="a patch's height and width in pixels; must divide the image's")
    dim: int = Field(64, ge=8, le=4096, multiple_of=8, description="width of a token")
    depth: int = Field(4, ge=1, le=48, description="transformer blocks")
    heads: int = Field(4, ge=1, le=64, description="attention heads; must divide dim")
    mlp_ratio: float = Field(2.0, gt=0, le=16, description="hidden width of a block's MLP, in units of dim")
    pool: Literal["token", "mean"] = Field(
        "token", description="what the head sees: the class token or the patches' mean"
    )

    @model_validator(mode="after")
    def _whole_heads(self) -> ViT:
        if self.dim % self.heads:
            raise ValueError(f"heads must divide dim: {self.dim} is not a multiple of {self.heads}")
        return self

    def build(self, spec: DataSpec, ctx: Context) -> nn.Module:
        """`layers`: embedding, blocks and a last norm, to tokens (N, 1 + patches, dim); `head`: linear.

        Raises BadInput where the examples are no images or the patch does not divide them.
        """
        channels, height, width = image_shape(spec, "vit")
        if height % self.patch or width % self.patch:
            fits = [p for p in range(1, min(height, width) + 1) if height % p == 0 and width % p == 0]
            raise BadInput(
                f"train.model.patch: {self.patch} does not divide images of {height} x {width} pixels; "
                f"these do: {', '.join(map(str, fits))}"
            )
        patches = (height // self.patch) * (width // self.patch)
        layers: OrderedDict[str, nn.Module] = OrderedDict(embed=Embed(channels, patches, self.patch, self.dim))
        for i in range(self.depth):
            layers[f"block{i + 1}"] = Block(self.dim, self.heads, max(1, round(self.dim * self.mlp_ratio)))
        layers["norm"] = nn.LayerNorm(self.dim, eps=1e-6)
        head = nn.Linear(self.dim, spec.n_outputs)
        model = nn.Sequential(OrderedDict(layers=nn.Sequential(layers), pool=Pool(self.pool), head=head))
        initialise(model)
        return model
