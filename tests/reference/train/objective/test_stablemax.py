"""StableMax cross-entropy by hand, in exact fractions, and its gradient by differences."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import torch

from assay.plugins.contract import Batch
from assay.plugins.train.objective.stablemax import StableMax, log_stablemax

LOGITS = [[Fraction(2), Fraction(-1, 2), Fraction(0)], [Fraction(-3), Fraction(-1), Fraction(5, 2)]]


def shares(row: list[Fraction]) -> list[Fraction]:
    s = [z + 1 if z >= 0 else 1 / (1 - z) for z in row]
    return [value / sum(s) for value in s]


def batch(y: torch.Tensor) -> Batch:
    return Batch({"index": torch.arange(len(y)), "x": torch.zeros(len(y), 1), "y": y})


def test_by_hand():
    assert shares(LOGITS[0]) == [Fraction(9, 14), Fraction(2, 14), Fraction(3, 14)]
    output = torch.tensor([[float(z) for z in row] for row in LOGITS])
    found = StableMax().score(output, batch(torch.tensor([1, 2])))
    expected = [-math.log(shares(row)[k]) for row, k in zip(LOGITS, (1, 2), strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.dtype == torch.float32
    soft = torch.tensor([[0.2, 0.5, 0.3], [0.0, 1.0, 0.0]])
    expected = [
        -sum(q * math.log(p) for q, p in zip(target, shares(row), strict=True))
        for target, row in zip(soft.tolist(), LOGITS, strict=True)
    ]
    np.testing.assert_allclose(StableMax().score(output, batch(soft)), expected, rtol=1e-6)


def test_the_gradient_is_continuous_where_the_pieces_meet():
    z = torch.tensor([[0.3, -0.7, 1e-9], [-1e-9, 2.0, -4.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(log_stablemax, z)
    at = torch.tensor([[0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(log_stablemax(at)[0, 0], at)
    torch.testing.assert_close(gradient, torch.tensor([[1 - 1 / 3, -1 / 3]], dtype=torch.float64))


def test_large_logits_keep_a_gradient_where_softmax_has_none():
    output = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    y = torch.tensor([0])
    (softmax,) = torch.autograd.grad(torch.nn.functional.cross_entropy(output, y), output)
    assert not softmax.any()
    (stable,) = torch.autograd.grad(StableMax().score(output, batch(y)).sum(), output)
    np.testing.assert_allclose(stable, [[1 / 203 - 1 / 201, 1 / 203, 1 / 203]], rtol=1e-5)
