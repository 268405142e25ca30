"""Truncating a sampler's noise raises precision and lowers recall (arxiv:1904.06991, figure 4)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.plugins.contract import Context, Data, DataSpec, Split, Subject
from assay.plugins.evaluate.generation.precision_recall import PrecisionRecall

COUNT = 400


def numbers(seed: int, scale: float) -> tuple[float, float]:
    """Precision and recall of a rough sampler: a mixture's centres and shapes a little wrong, its noise scaled."""
    rng = np.random.default_rng(seed)
    centres = 3 * rng.standard_normal((4, 6))
    kind = rng.integers(0, 4, (2, COUNT))
    real = centres[kind[0]] + rng.standard_normal((COUNT, 6))
    fake = centres[kind[1]] + 1.3 * scale * rng.standard_normal((COUNT, 6))
    spec = DataSpec(problem="generation", modality="features", shape=(6,))
    split, answer = Split({"x": real.astype(np.float32)}), torch.from_numpy(fake)
    data = Data(spec, {"train": split, "test": split})
    subject = Subject(torch.nn.Identity(), lambda batch: answer[batch.index], spec, {"main": data})
    found = PrecisionRecall().evaluate(subject, Context(rng=torch.Generator(), spec=spec)).numbers
    return found["precision"].value, found["recall"].value


@pytest.mark.claim
def test_truncation_trades_recall_for_precision() -> None:
    for seed in range(5):
        found = [numbers(seed, scale) for scale in (1.0, 0.7, 0.4)]
        assert found[0][0] < found[1][0] < found[2][0]
        assert found[0][1] > found[1][1] > found[2][1]
