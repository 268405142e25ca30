"""A network as a user may bring one: its children have names of their own."""

from __future__ import annotations

import math

from torch import Tensor, nn

from assay.plugins.contract import DataSpec


class Own(nn.Module):
    """One hidden layer for examples of any shape; children `backbone` and `fc`."""

    def __init__(self, spec: DataSpec, width: int = 8):
        super().__init__()
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(spec.shape), width), nn.ReLU())
        self.fc = nn.Linear(width, spec.n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (N, outputs)."""
        found: Tensor = self.fc(self.backbone(x))
        return found
