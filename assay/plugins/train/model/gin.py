"""A graph isomorphism network."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import torch
from torch import Tensor, nn

from assay.plugins.contract import BadInput, Card, Context, DataSpec, Field, Model


class Aggregate(nn.Module):
    """MLP((1 + eps) h_v + sum of the neighbours' h_u), eps learned, for node features (N, V, D) and adjacency
    matrices (N, V, V); rows that are no node stay zero."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(1))
        self.mlp = nn.Sequential(
            OrderedDict(
                first=nn.Linear(inputs, outputs),
                relu1=nn.ReLU(),
                second=nn.Linear(outputs, outputs),
                relu2=nn.ReLU(),
            )
        )

    def forward(self, h: Tensor, edges: Tensor, present: Tensor) -> Tensor:
        out: Tensor = self.mlp((1 + self.eps) * h + torch.matmul(edges, h)) * present
        return out


class Readouts(nn.Module):
    """Graphs (N, V, F + V) to (N, depth width): the nodes' features after each round, added up over nodes."""

    def __init__(self, features: int, width: int, depth: int):
        super().__init__()
        self.features = features
        widths = [features, *[width] * depth]
        self.rounds = nn.ModuleList(Aggregate(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        h, edges = x[..., : self.features], x[..., self.features :]
        present = (x != 0).any(dim=-1, keepdim=True).to(x.dtype)
        found = []
        for one in self.rounds:
            h = one(h, edges, present)
            found.append(h.sum(dim=1))
        return torch.cat(found, dim=1)


class GIN(Model):
    """Rounds in which each node adds up its neighbours' features and passes the sum through an MLP; the graph
    is the sum over its nodes after every round. Without the paper's batch norm, which an empty row would
    disturb."""

    card = Card(
        title="How Powerful are Graph Neural Networks?",
        paper="arxiv:1810.00826",
        problems=("graph",),
        modality=("graph",),
    )
    width: int = Field(16, ge=1, le=4096, description="features of a node after each round")
    depth: int = Field(3, ge=1, le=32, description="rounds")

    def build(self, spec: DataSpec, ctx: Context) -> nn.Module:
        """`layers`: to (N, depth width); `head`: linear to the outputs. Raises BadInput where the examples are
        no graphs."""
        if len(spec.shape) != 2 or spec.shape[1] <= spec.shape[0]:
            raise BadInput(f"train.model: gin takes graphs (nodes, features + nodes), not {list(spec.shape)}")
        layers = Readouts(spec.shape[1] - spec.shape[0], self.width, self.depth)
        return nn.Sequential(OrderedDict(layers=layers, head=nn.Linear(self.depth * self.width, spec.n_outputs)))
