"""What methods of representations are tried on: the images of classification, to be embedded by convolutions or
by a transformer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from assay.plugins.contract import Batch, Data, DataSpec
from assay.plugins.testing.worlds import Fused, World, blobs, tiny_net

WIDTH = 8


class TinyEmbed(nn.Module):
    """Sixteen patches of 2 x 2 pixels, each embedded, after a learned token."""

    def __init__(self, channels: int):
        super().__init__()
        self.linear = nn.Linear(4 * channels, WIDTH)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, 2, stride=2).transpose(1, 2)
        return torch.cat([self.token.expand(len(x), -1, -1), self.linear(patches)], dim=1)


class TinyAttention(nn.Module):
    """Attention with one head."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=2)
        return (q @ k.transpose(1, 2) / WIDTH**0.5).softmax(dim=2) @ v


class TinyBlock(nn.Module):
    """Attention beside the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = TinyAttention()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.attention(x)
        return out


class TinyTransformer(Fused):
    """Tokens of patches, two blocks, and a head on their mean."""

    def __init__(self, channels: int, outputs: int):
        super().__init__()
        self.layers = nn.Sequential()
        self.layers.add_module("embed", TinyEmbed(channels))
        self.layers.add_module("block1", TinyBlock())
        self.layers.add_module("block2", TinyBlock())
        self.head = nn.Linear(WIDTH, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) to embeddings (N, outputs)."""
        tokens = self.layers(x)
        self.burn()
        out: Tensor = self.head(tokens.mean(dim=1))
        return out


def embedded() -> World:
    """One channel of bytes, embeddings of eight numbers."""
    return world("embeddings", tiny_net)


def patches() -> World:
    """The same by a transformer."""
    return world("embeddings of patches", lambda spec: TinyTransformer(spec.shape[0], spec.n_outputs))


def world(name: str, network: Callable[[DataSpec], nn.Module]) -> World:
    """The images with a network that embeds them."""
    spec = DataSpec(problem="representation", shape=(1, 8, 8), classes=("a", "b", "c"), outputs=8)
    data, other = (Data(spec, {"train": blobs(48, 1, seed), "test": blobs(24, 1, seed + 1)}) for seed in (0, 2))
    return World(
        name,
        "representation",
        data,
        other,
        target=lambda prediction: prediction.detach(),
        score_of=lambda prediction, target: prediction.norm(dim=1),
        network=network,
        loss=far_apart,
    )


def far_apart(output: Tensor, batch: Batch) -> Tensor:
    """How alike each example's embedding is to the others of its batch (N,)."""
    unit = F.normalize(output, dim=1)
    return torch.logsumexp(unit @ unit.T, dim=1)
