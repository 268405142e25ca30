"""What methods of sequences are tried on: counting tokens."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from assay.plugins.contract import Batch, Data, DataSpec, Split
from assay.plugins.testing.worlds import Fused, World, frozen

TOKENS, LENGTH = 5, 6


class TinyTokens(Fused):
    """Embedded tokens, a layer for each by itself, and a head."""

    def __init__(self, vocabulary: int, outputs: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Embedding(vocabulary, 16), nn.Linear(16, 16), nn.ReLU())
        self.head = nn.Linear(16, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, T) to logits (N, T, outputs)."""
        features = self.layers(x)
        self.burn()
        out: Tensor = self.head(features)
        return out


def counting(count: int, seed: int) -> Split:
    """Each token is one more than the last, modulo five, but for every tenth; the next one is to be told."""
    rng = np.random.default_rng(seed)
    steps = np.where(rng.random((count, LENGTH + 1)) < 0.1, 2, 1)
    tokens = (rng.integers(0, TOKENS, (count, 1)) + steps.cumsum(axis=1)) % TOKENS
    return frozen(Split({"x": tokens[:, :-1].copy(), "y": tokens[:, 1:].copy()}))


def tokens() -> World:
    """Five tokens."""
    spec = DataSpec(
        problem="sequence", modality="tokens", shape=(LENGTH,), classes=tuple("abcde"), high=(float(TOKENS - 1),)
    )
    data, other = (Data(spec, {"train": counting(48, seed), "test": counting(24, seed + 1)}) for seed in (0, 2))
    return World(
        "tokens",
        "sequence",
        data,
        other,
        target=lambda prediction: prediction.argmax(2),
        score_of=lambda prediction, target: prediction.gather(2, target[..., None])[..., 0].mean(1),
        network=lambda spec: TinyTokens(int(spec.high[0]) + 1, spec.n_outputs),
        loss=token_entropy,
    )


def token_entropy(output: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy, mean over tokens (N,)."""
    return F.cross_entropy(output.transpose(1, 2), batch.y, reduction="none").mean(1)
