"""label_noise against the transition matrices of the papers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.plugins.contract import BadData, Context, Data, DataSpec, Split
from assay.plugins.prepare.transform.label_noise import LabelNoise

CLASSES = 5


def context(seed: int = 0) -> Context:
    return Context(rng=torch.Generator().manual_seed(seed), spec=DataSpec(shape=(1,)))


def sample(n: int = 20000) -> Data:
    y = np.random.default_rng(0).integers(0, CLASSES, n)
    split = Split({"x": np.zeros((n, 1), np.float32), "y": y})
    return Data(DataSpec(shape=(1,), classes=tuple("abcde")), {"train": split, "test": split})


def made(data: Data, seed: int = 0, **fields) -> Data:
    method = LabelNoise(**fields)
    return method.apply(data, method.fit(data, context(seed)))


def transitions(clean: np.ndarray, noisy: np.ndarray) -> np.ndarray:
    table = np.zeros((CLASSES, CLASSES))
    np.add.at(table, (clean, noisy), 1)
    return table / table.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("fraction", [0.2, 0.45])
@pytest.mark.parametrize("kind", ["symmetric", "pair", "uniform"])
def test_the_transition_matrix(kind, fraction):
    fields = made(sample(), fraction=fraction, kind=kind).train.fields
    if kind == "symmetric":
        other = fraction / (CLASSES - 1)
        expected = np.full((CLASSES, CLASSES), other) + np.eye(CLASSES) * (1 - fraction - other)
    elif kind == "uniform":
        expected = np.eye(CLASSES) * (1 - fraction) + fraction / CLASSES
    else:
        expected = np.eye(CLASSES) * (1 - fraction) + np.roll(np.eye(CLASSES), 1, axis=1) * fraction
    # About 4,000 labels a class: five standard errors are at most 0.04.
    error = 5 * np.sqrt(expected * (1 - expected) / 3900)
    assert (np.abs(transitions(fields["y_clean"], fields["y"]) - expected) <= error + 1e-12).all()


@pytest.mark.parametrize("kind", ["symmetric", "pair"])
def test_exactly_the_fraction_is_wrong_and_the_right_labels_stay(kind):
    data = sample(1003)
    for fraction, wrong in ((0.0, 0), (0.3, 301), (1.0, 1003)):
        done = made(data, fraction=fraction, kind=kind)
        assert (done.train.fields["y"] != data.train.fields["y"]).sum() == wrong
        np.testing.assert_array_equal(done.train.fields["y_clean"], data.train.fields["y"])
        assert done.train.fields["y"].dtype == data.train.fields["y"].dtype
        assert done.test is data.test
    assert (data.train.fields["y"] == sample(1003).train.fields["y"]).all()


def test_the_draw_is_seeded():
    data = sample(500)
    first, again, other = (made(data, seed).train.fields["y"].tobytes() for seed in (0, 0, 1))
    assert first == again != other


def test_twice_keeps_the_first_labels_as_the_right_ones():
    data = sample(500)
    twice = made(made(data, fraction=0.3), seed=1, fraction=0.3)
    np.testing.assert_array_equal(twice.train.fields["y_clean"], data.train.fields["y"])


def test_new_data_pass_and_data_without_class_labels_are_refused():
    data, method = sample(50), LabelNoise()
    record = method.fit(data, context())
    new = data.replace(splits={"new": Split({"x": np.zeros((2, 1))})})
    assert method.apply(new, record) is new
    for fields in ({"x": np.zeros((2, 1))}, {"x": np.zeros((2, 1)), "y": np.array([0.5, 1.0])}):
        with pytest.raises(BadData, match="whole-number labels"):
            method.fit(data.replace(splits={"train": Split(fields)}), context())
