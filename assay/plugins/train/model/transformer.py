"""A small causal transformer for tokens."""

from __future__ import annotations

from collections import OrderedDict

import torch
from pydantic import model_validator
from torch import Tensor, nn

from assay.plugins.contract import BadInput, Card, Context, DataSpec, Field, Model
from assay.plugins.train.model._transformer import Block


class EmbedTokens(nn.Module):
    """Tokens (N, T) to vectors (N, T, dim): a learned vector for each token plus one for its place."""

    def __init__(self, vocabulary: int, length: int, dim: int):
        super().__init__()
        self.token = nn.Embedding(vocabulary, dim)
        self.position = nn.Parameter(torch.empty(1, length, dim))
        nn.init.normal_(self.token.weight, std=0.02)
        nn.init.normal_(self.position, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.token(x) + self.position
        return out


class Last(nn.Module):
    """The last token's vector: (N, T, dim) to (N, dim)."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, -1]


class Transformer(Model):
    """Pre-norm transformer blocks in which no token sees a later one. For sequences it predicts at every
    token; for a class of the whole sequence, at the last."""

    card = Card(
        title="Attention Is All You Need",
        paper="arxiv:1706.03762",
        also=("arxiv:2002.04745",),
        problems=("sequence", "classification"),
        modality=("tokens",),
    )
    dim: int = Field(32, ge=8, le=4096, multiple_of=8, description="width of a token")
    depth: int = Field(1, ge=1, le=48, description="transformer blocks")
    heads: int = Field(4, ge=1, le=64, description="attention heads; must divide dim")
    mlp_ratio: float = Field(4.0, gt=0, le=16, description="hidden width of a block's MLP, in units of dim")

    @model_validator(mode="after")
    def _whole_heads(self) -> Transformer:
        if self.dim % self.heads:
            raise ValueError(f"heads must divide dim: {self.dim} is not a multiple of {self.heads}")
        return self

    def build(self, spec: DataSpec, ctx: Context) -> nn.Module:
        """`layers`: embedding, blocks and a last norm, to (N, T, dim); `head`: linear to the outputs, of each
        token or of the last. Raises BadInput where the examples are no tokens."""
        if spec.modality != "tokens":
            raise BadInput(f"train.model: transformer takes tokens, the examples are {spec.modality}")
        (length,) = spec.shape
        layers: OrderedDict[str, nn.Module] = OrderedDict(embed=EmbedTokens(int(spec.high[0]) + 1, length, self.dim))
        for i in range(self.depth):
            layers[f"block{i + 1}"] = Block(self.dim, self.heads, max(1, round(self.dim * self.mlp_ratio)), causal=True)
        layers["norm"] = nn.LayerNorm(self.dim, eps=1e-6)
        parts: OrderedDict[str, nn.Module] = OrderedDict(layers=nn.Sequential(layers))
        if spec.problem != "sequence":
            parts["last"] = Last()
        parts["head"] = nn.Linear(self.dim, spec.n_outputs)
        return nn.Sequential(parts)
