"""What methods of fields are tried on: plane waves, each known at some points and asked for at others."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from assay.plugins.contract import Data, DataSpec, Split
from assay.plugins.testing.world_restoration import squared
from assay.plugins.testing.worlds import Fused, World, frozen

KNOWN, ASKED = 9, 12


class TinyField(Fused):
    """Two layers of sines and a linear head, on each point by itself."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.layers = nn.ModuleDict({"first": nn.Linear(inputs, 16), "second": nn.Linear(16, 16)})
        self.head = nn.Linear(16, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Points (N, P, d) to values (N, P, outputs)."""
        features = torch.sin(self.layers["second"](torch.sin(3 * self.layers["first"](x))))
        self.burn()
        out: Tensor = self.head(features)
        return out


def plane_waves(count: int, seed: int) -> Split:
    """A wave of its own direction and phase for each example, values between 0 and 1."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (count, KNOWN + ASKED, 2)).astype(np.float32)
    phase = np.einsum("npd,nd->np", x, rng.uniform(-3, 3, (count, 2))) + rng.uniform(0, 6, (count, 1))
    y = (0.5 + 0.4 * np.sin(phase))[..., None].astype(np.float32)
    rest = {"x": x[:, KNOWN:].copy(), "y": y[:, KNOWN:].copy()}
    return frozen(Split({**rest, "x_context": x[:, :KNOWN].copy(), "y_context": y[:, :KNOWN].copy()}))


def waves() -> World:
    """Many signals in the plane."""
    spec = DataSpec(problem="field", modality="coordinates", shape=(ASKED, 2), outputs=1, low=(-1.0,), high=(1.0,))
    data, other = (Data(spec, {"train": plane_waves(48, s), "test": plane_waves(24, s + 1)}) for s in (0, 2))
    return World(
        "plane waves",
        "field",
        data,
        other,
        target=lambda prediction: prediction.detach(),
        score_of=lambda prediction, target: prediction.flatten(1).sum(1),
        network=lambda spec: TinyField(spec.shape[1], spec.n_outputs),
        loss=squared,
    )
