"""normalize against plain numpy and scikit-learn, over more than one chunk."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from assay.plugins.contract import BadInput, Context, Data, DataSpec, Split
from assay.plugins.prepare.transform.normalize import CHUNK, Normalize


def context() -> Context:
    return Context(rng=torch.Generator().manual_seed(0), spec=DataSpec(shape=(1, 8, 8)))


def images(dtype=np.uint8) -> Data:
    rng = np.random.default_rng(0)
    n = CHUNK + 100
    x = rng.integers(0, 256, (n + 7, 3, 4, 5)) // np.array([1, 2, 3])[:, None, None]
    x = x.astype(np.uint8) if dtype == np.uint8 else (x / 255).astype(np.float32)
    splits = {"train": Split({"x": x[:n], "y": np.arange(n)}), "test": Split({"x": x[n:], "y": np.arange(7)})}
    return Data(DataSpec(shape=(3, 4, 5), classes=("a", "b")), splits)


def test_statistics_are_those_of_the_training_split_per_channel():
    for dtype in (np.uint8, np.float32):
        data, method = images(dtype), Normalize()
        record = method.fit(data, context())
        done = method.apply(data, record)
        unit = data.train.fields["x"].astype(np.float64) / (255 if dtype == np.uint8 else 1)
        mean, deviation = unit.mean(axis=(0, 2, 3)), unit.std(axis=(0, 2, 3))
        np.testing.assert_allclose(record.tensors["mean"], mean, rtol=1e-6)
        np.testing.assert_allclose(record.tensors["deviation"], deviation, rtol=1e-6)
        x = done.train.fields["x"]
        assert x.dtype == np.float32
        np.testing.assert_allclose(x.mean(axis=(0, 2, 3), dtype=np.float64), 0, atol=1e-5)
        np.testing.assert_allclose(x.std(axis=(0, 2, 3), dtype=np.float64), 1, rtol=1e-5)
        test = data.test.fields["x"].astype(np.float64) / (255 if dtype == np.uint8 else 1)
        expected = (test - mean[:, None, None]) / deviation[:, None, None]
        np.testing.assert_allclose(done.test.fields["x"], expected, atol=1e-5)


def test_bounds_and_pixel_unit_are_in_the_new_units():
    data, method = images(), Normalize()
    done = method.apply(data, method.fit(data, context()))
    unit = data.train.fields["x"] / 255
    mean, deviation = unit.mean(axis=(0, 2, 3)), unit.std(axis=(0, 2, 3))
    np.testing.assert_allclose(done.spec.low, -mean / deviation, rtol=1e-6)
    np.testing.assert_allclose(done.spec.high, (1 - mean) / deviation, rtol=1e-6)
    np.testing.assert_allclose(done.spec.scale, 1 / deviation, rtol=1e-6)
    assert done.spec.shape == data.spec.shape
    # Twice is allowed: the second time nothing is left to do, and the bounds stay right.
    twice = method.apply(done, method.fit(done, context()))
    np.testing.assert_allclose(twice.spec.high, done.spec.high, rtol=1e-4)
    np.testing.assert_allclose(twice.spec.scale, done.spec.scale, rtol=1e-4)


def test_new_data_of_x_alone_get_the_same_values():
    data, method = images(), Normalize()
    record = method.fit(data, context())
    whole = method.apply(data, record)
    new = data.replace(splits={"new": Split({"x": data.test.fields["x"][2:3]})})
    alone = method.apply(new, record).splits["new"].fields["x"]
    np.testing.assert_array_equal(alone, whole.test.fields["x"][2:3])
    assert Normalize.card.serves


def test_features_as_scikit_learn_and_constant_ones_are_only_centred():
    rng = np.random.default_rng(1)
    x = rng.normal(1000, [1, 5, 0], (2 * CHUNK + 3, 3)).astype(np.float32)
    data = Data(DataSpec(shape=(3,), classes=("a", "b")), {"train": Split({"x": x})})
    method = Normalize()
    done = method.apply(data, method.fit(data, context())).train.fields["x"]
    np.testing.assert_allclose(done, StandardScaler().fit_transform(x.astype(np.float64)), atol=1e-3)
    assert not done[:, 2].any()


def test_the_given_arrays_stay_as_they_were():
    data, method = images(np.float32), Normalize()
    before = data.train.fields["x"].copy()
    method.apply(data, method.fit(data, context()))
    np.testing.assert_array_equal(data.train.fields["x"], before)


def test_given_mean_and_deviation_are_used_as_they_are() -> None:
    x = np.array([[[[255]], [[0]]], [[[51]], [[102]]]], dtype=np.uint8)
    data = Data(DataSpec(shape=(2, 1, 1), classes=("a", "b")), {"train": Split({"x": x, "y": np.array([0, 1])})})
    method = Normalize(mean=(0.5, 0.2), std=(0.25, 0.5))
    ctx = Context(rng=torch.Generator(), spec=data.spec)
    done = method.apply(data, method.fit(data, ctx))
    expected = np.array([[2.0, -0.4], [-1.2, 0.4]])  # (1 - .5)/.25, (0 - .2)/.5; (.2 - .5)/.25, (.4 - .2)/.5
    np.testing.assert_allclose(done.splits["train"].fields["x"][:, :, 0, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(done.spec.scale, (4.0, 2.0))
    with pytest.raises(ValueError, match="one of each"):
        Normalize(mean=(0.5,))
    with pytest.raises(BadInput, match="1 values, the examples 2 channels"):
        Normalize(mean=(0.5,), std=(1.0,)).fit(data, ctx)
