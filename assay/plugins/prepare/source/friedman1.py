"""Friedman's first regression problem: ten numbers, five of which matter."""

from __future__ import annotations

import numpy as np

from assay.plugins.contract import Card, Context, Data, DataSpec, Field, Source, Split

RELEVANT = 5


def surface(x: np.ndarray) -> np.ndarray:
    """10 sin(pi x1 x2) + 20 (x3 - 1/2)^2 + 10 x4 + 5 x5 of each row of `x` (N, D >= 5), (N,)."""
    return 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]


class Friedman1(Source):
    """Uniform numbers in [0, 1], a smooth function of the first five of them, and normal noise.

    The field `mask` (N, features) is True for the five that the values depend on: the ground truth of
    every attribution.
    """

    card = Card(
        title="Multivariate Adaptive Regression Splines",
        paper="doi:10.1214/aos/1176347963",
        modality=("features",),
        gives=("mask",),
        makes="regression",
    )
    train: int = Field(800, ge=2, le=10_000_000, description="training examples")
    test: int = Field(400, ge=2, le=10_000_000, description="test examples")
    features: int = Field(
        10, ge=RELEVANT, le=10_000, description="numbers in an example; all after the fifth are noise"
    )
    noise: float = Field(1.0, ge=0, description="standard deviation of the noise on the values, whose own is about 4.9")
    draw: int = Field(0, ge=0, description="number of the draw: another one gives other examples of the same surface")

    def load(self, ctx: Context) -> Data:
        """float32 x (N, features), y (N,) and bool mask (N, features)."""
        splits = {name: self._split(count, part) for part, (name, count) in enumerate(self._sizes().items())}
        spec = DataSpec(problem="regression", modality="features", shape=(self.features,), outputs=1)
        return Data(spec, splits, provenance={"source": "Friedman's function 1", "noise": self.noise})

    def _sizes(self) -> dict[str, int]:
        return {"train": self.train, "test": self.test}

    def _split(self, count: int, part: int) -> Split:
        rng = np.random.default_rng([self.draw, part])
        x = rng.random((count, self.features))
        y = surface(x) + self.noise * rng.standard_normal(count)
        mask = np.broadcast_to(np.arange(self.features) < RELEVANT, x.shape)
        return Split({"x": x.astype(np.float32), "y": y.astype(np.float32), "mask": np.array(mask)})
