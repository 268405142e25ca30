"""What transformers share: attention and the pre-norm block."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

from assay.plugins.train.model._common import Add


class Attention(nn.Module):
    """Multi-head self-attention: softmax(q k^T / sqrt(d)) v for each head, then a linear layer; where it is
    `causal` no token sees a later one.

    Written out, not torch's fused layer, so that it exports and its softmax can be tapped.
    """

    def __init__(self, dim: int, heads: int, causal: bool = False):
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.width = dim // heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.softmax = nn.Softmax(dim=-1)
        self.project = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, dim = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, self.heads, self.width).permute(2, 0, 3, 1, 4).unbind(0)
        scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(self.width)
        if self.causal:
            later = torch.ones(tokens, tokens, dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        weights = self.softmax(scores)
        return self.project(torch.matmul(weights, v).transpose(1, 2).reshape(n, tokens, dim))


class Block(nn.Module):
    """A pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, dim: int, heads: int, hidden: int, causal: bool = False):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attention = Attention(dim, heads, causal)
        self.add1 = Add()
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(OrderedDict(up=nn.Linear(dim, hidden), gelu=nn.GELU(), down=nn.Linear(hidden, dim)))
        self.add2 = Add()

    def forward(self, x: Tensor) -> Tensor:
        x = self.add1(x, self.attention(self.norm1(x)))
        return self.add2(x, self.mlp(self.norm2(x)))
