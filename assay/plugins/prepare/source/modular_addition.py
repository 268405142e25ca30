"""Arithmetic modulo a prime, as tokens to classify."""

from __future__ import annotations

from typing import Literal

import numpy as np

from assay.plugins.contract import BadInput, Card, Context, Data, DataSpec, Field, Source, Split


def answers(a: np.ndarray, b: np.ndarray, p: int, operation: str) -> np.ndarray:
    """The operation of each pair modulo `p`; `divide` is a / b, for p prime and b not 0: a b^(p - 2)."""
    if operation == "add":
        return (a + b) % p
    if operation == "subtract":
        return (a - b) % p
    if operation == "multiply":
        return a * b % p
    inverse = np.array([pow(int(i), p - 2, p) for i in range(p)])
    return a * inverse[b] % p


class ModularAddition(Source):
    """All pairs (a, b) of numbers below `p` as three tokens `a b =`, whose class is a + b modulo p (or another
    operation): a random share is the training split, the rest the test split."""

    card = Card(
        title="Grokking: Generalization Beyond Overfitting on Small Algorithmic Datasets",
        paper="arxiv:2201.02177",
        modality=("tokens",),
    )
    p: int = Field(97, ge=3, le=1000, description="the modulus; a prime, for divide")
    operation: Literal["add", "subtract", "multiply", "divide"] = Field("add", description="what joins a and b")
    fraction: float = Field(0.5, gt=0, lt=1, description="share of all pairs in the training split")
    draw: int = Field(0, ge=0, le=2**31, description="seed of the split")

    def load(self, ctx: Context) -> Data:
        """int64 tokens (N, 3), the third being p, which stands for `=`, and int64 classes (N,).

        Raises BadInput: division by a modulus that is no prime; a split that would be empty.
        """
        p = self.p
        if self.operation == "divide" and any(p % d == 0 for d in range(2, int(p**0.5) + 1)):
            raise BadInput(f"source/modular_addition: division needs a prime p, {p} is none")
        a, b = (side.ravel() for side in np.divmod(np.arange(p * p, dtype=np.int64), p))
        if self.operation == "divide":
            a, b = a[b > 0], b[b > 0]
        x = np.stack([a, b, np.full_like(a, p)], axis=1)
        y = answers(a, b, p, self.operation)
        order = np.random.default_rng(self.draw).permutation(len(x))
        cut = round(len(x) * self.fraction)
        if not 0 < cut < len(x):
            raise BadInput(f"source/modular_addition: fraction {self.fraction} of {len(x)} pairs leaves an empty split")
        parts = {"train": order[:cut], "test": order[cut:]}
        spec = DataSpec(modality="tokens", shape=(3,), classes=tuple(str(i) for i in range(p)), high=(float(p),))
        return Data(spec, {name: Split({"x": x[at], "y": y[at]}) for name, at in parts.items()})
