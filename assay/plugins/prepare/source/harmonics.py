"""One signal in the plane, made of waves."""

from __future__ import annotations

import numpy as np

from assay.plugins.contract import Card, Context, Data, DataSpec, Field, Source, Split


def wave_sum(points: np.ndarray, frequencies: np.ndarray, phases: np.ndarray) -> np.ndarray:
    """1/2 + mean over the waves k of sin(2 pi f_k . p + phase_k) / 2 at points (P, d), for frequencies (K, d) in
    cycles per unit; values (P,) in [0, 1]."""
    return 0.5 + 0.5 * np.sin(2 * np.pi * points @ frequencies.T + phases).mean(axis=1)


class Harmonics(Source):
    """A single signal on the square [-1, 1]^2, a sum of plane waves of random direction and frequency.

    Training and test points are drawn apart: a test point was never seen.
    """

    card = Card(title="A sum of plane waves", modality=("coordinates",), makes="field")
    points: int = Field(1024, ge=2, le=10_000_000, description="points to train on, and as many others to test on")
    waves: int = Field(16, ge=1, le=10_000, description="number of waves")
    frequency: float = Field(3.0, gt=0, description="highest frequency, in cycles per unit: a side is two units long")
    draw: int = Field(0, ge=0, description="number of the draw: another one gives another signal")

    def load(self, ctx: Context) -> Data:
        """One example a split: float32 x (1, points, 2) and y (1, points, 1)."""
        rng = np.random.default_rng(self.draw)
        angle, length = 2 * np.pi * rng.random(self.waves), self.frequency * rng.random(self.waves)
        frequencies = length[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        phases = 2 * np.pi * rng.random(self.waves)
        splits = {}
        for name in ("train", "test"):
            x = rng.uniform(-1, 1, (1, self.points, 2))
            y = wave_sum(x[0], frequencies, phases)[None, :, None]
            splits[name] = Split({"x": x.astype(np.float32), "y": y.astype(np.float32)})
        spec = DataSpec(
            problem="field", modality="coordinates", shape=(self.points, 2), outputs=1, low=(-1.0,), high=(1.0,)
        )
        return Data(spec, splits, provenance={"source": "plane waves", "draw": self.draw})
