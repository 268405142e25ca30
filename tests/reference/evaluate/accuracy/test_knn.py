"""The neighbours' vote by hand and by scikit-learn, the probe by scikit-learn's logistic regression."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch.nn import functional as F

from assay.plugins.evaluate.accuracy.knn import probe, vote


def test_the_vote_by_hand() -> None:
    train = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0], [-1.0, 0.0]]).double()
    y = torch.tensor([0, 1, 1, 0])
    found = vote(torch.tensor([[5.0, 0.0]]).double(), train, y, 2, k=3, temperature=0.5)[0]
    near = math.exp(1 / 0.5), math.exp(0 / 0.5), math.exp(math.sqrt(0.5) / 0.5)
    assert float(found[0] / found[1]) == pytest.approx(near[0] / (near[1] + near[2]))
    assert vote(train, train, y, 2, k=99, temperature=0.5).shape == (4, 2)


def test_the_vote_is_scikit_learns_with_the_same_weights() -> None:
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(60, 4)), rng.normal(size=(30, 4))
    y = rng.integers(0, 3, 60)
    found = vote(torch.from_numpy(test), torch.from_numpy(train), torch.from_numpy(y), 3, 7, 0.1)
    other = KNeighborsClassifier(7, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.1))
    assert np.allclose(F.normalize(found, p=1, dim=1), other.fit(train, y).predict_proba(test))


def test_the_probe_is_logistic_regression() -> None:
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, 200)
    train = rng.normal(size=(200, 5)) + 1.5 * np.eye(3, 5)[y]
    test = rng.normal(size=(40, 5))
    found = probe(torch.from_numpy(test), torch.from_numpy(train), torch.from_numpy(y), 3, decay=0.01)
    mean, deviation = train.mean(0), train.std(0)
    other = LogisticRegression(C=1 / (0.01 * 200), tol=1e-8, max_iter=1000).fit((train - mean) / deviation, y)
    expected = other.predict_proba((test - mean) / deviation)
    assert np.allclose(found.softmax(1).numpy(), expected, atol=2e-3)
