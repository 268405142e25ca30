"""Accuracy and likelihood of tokens by hand, places that do not count left out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from assay.plugins.contract import Context, Data, DataSpec, Split, Subject
from assay.plugins.evaluate.accuracy.next_token import NextToken


def test_two_sequences_by_hand() -> None:
    spec = DataSpec(problem="sequence", modality="tokens", shape=(3,), classes=("a", "b"), high=(1.0,))
    p = torch.tensor([[[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]], [[0.2, 0.8], [0.7, 0.3], [0.9, 0.1]]])
    y = np.array([[0, 0, -1], [1, 0, 0]])
    split = Split({"x": np.zeros((2, 3), np.int64), "y": y})
    data = {"main": Data(spec, {"test": split})}
    subject = Subject(torch.nn.Identity(), lambda batch: p.log()[batch.index], spec, data)
    found = NextToken().evaluate(subject, Context(rng=torch.Generator(), spec=spec))
    assert found.numbers["token"].each == pytest.approx([1 / 2, 1])
    surprise = [-(math.log(0.9) + math.log(0.4)) / 2, -(math.log(0.8) + math.log(0.7) + math.log(0.9)) / 3]
    assert found.numbers["nll"].each == pytest.approx(surprise, rel=1e-5)
    assert found.numbers["whole"].value == 0.5
    assert found.arrays["per_place"] == pytest.approx([1.0, 0.5, 1.0])
