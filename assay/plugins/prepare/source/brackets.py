"""Balanced brackets of several kinds: a small grammar to predict."""

from __future__ import annotations

import numpy as np

from assay.plugins.contract import Card, Context, Data, DataSpec, Field, Source
from assay.plugins.prepare.source._drawn import two_splits

PAIRS = ("()", "[]", "{}", "<>")


def word(rng: np.random.Generator, pairs: int, kinds: int, deepest: int) -> list[int]:
    """A balanced word of `pairs` pairs, at most `deepest` open at once: 2 k opens kind k, 2 k + 1 closes it."""
    found: list[int] = []
    stack: list[int] = []
    opened = 0
    while len(found) < 2 * pairs:
        may_open = opened < pairs and len(stack) < deepest
        if may_open and (not stack or rng.random() < 0.5):
            stack.append(int(rng.integers(kinds)))
            found.append(2 * stack[-1])
            opened += 1
        else:
            found.append(2 * stack.pop() + 1)
    return found


class Brackets(Source):
    """Balanced words of brackets, each token to be predicted from those before it. That something closes is
    often chance; what closes is known from what is open. With `closing` only closing tokens count."""

    card = Card(title="Balanced brackets (a Dyck language)", makes="sequence", modality=("tokens",))
    pairs: int = Field(8, ge=1, le=256, description="pairs of brackets in a word")
    kinds: int = Field(2, ge=1, le=4, description="kinds of brackets")
    deepest: int = Field(4, ge=1, le=256, description="most brackets that are open at once")
    closing: bool = Field(False, description="closing brackets alone count; the labels of the others are -1")
    train: int = Field(1000, ge=1, le=1_000_000, description="training words")
    test: int = Field(200, ge=1, le=1_000_000, description="test words")

    def load(self, ctx: Context) -> Data:
        """int64 x (N, T), a start token and all but the last token, and y (N, T), the tokens, T = 2 pairs."""
        brackets = tuple(mark for pair in PAIRS[: self.kinds] for mark in pair)
        start = len(brackets)

        def draw(rng: np.random.Generator) -> dict[str, np.ndarray]:
            y = np.array(word(rng, self.pairs, self.kinds, self.deepest), dtype=np.int64)
            x = np.concatenate([[start], y[:-1]])
            return {"x": x, "y": np.where(y % 2 == 1, y, -1) if self.closing else y}

        spec = DataSpec(
            problem="sequence", modality="tokens", shape=(2 * self.pairs,), classes=brackets, high=(float(start),)
        )
        return Data(spec, two_splits(self.train, self.test, draw), provenance={"source": "drawn"})
