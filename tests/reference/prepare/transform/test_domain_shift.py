"""Domain shift: which examples are shifted and unlabelled, and each shift by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.plugins.contract import BadData, Context, Data, DataSpec, Split
from assay.plugins.prepare.transform.domain_shift import DomainShift

SPEC = DataSpec(shape=(2, 4, 4), classes=("a", "b", "c"), low=(-1.0, 0.0), high=(3.0, 2.0), scale=(4.0, 2.0))


def sample(kind: type = np.float32, n: int = 40) -> Data:
    rng = np.random.default_rng(0)
    splits = {}
    for name in ("train", "validation", "test"):
        unit = rng.random((n, 2, 4, 4))
        x = (unit * 255).astype(np.uint8) if kind is np.uint8 else (unit * [[[[4.0]], [[2.0]]]] + [[[[-1.0]], [[0.0]]]])
        splits[name] = Split({"x": x.astype(kind), "y": 1 + rng.integers(0, 2, n)})
    return Data(SPEC, splits)


def made(data: Data, seed: int = 0, **fields) -> Data:
    method = DomainShift(**fields)
    return method.apply(data, method.fit(data, Context(rng=torch.Generator().manual_seed(seed), spec=SPEC)))


def test_a_share_of_the_training_split_is_the_target_and_has_no_labels():
    data = sample()
    for share, count in ((0.5, 20), (0.3, 12)):
        train = made(data, share=share).train.fields
        target = train["group"] == 1
        assert target.sum() == count
        np.testing.assert_array_equal(train["labelled"], ~target)
        np.testing.assert_array_equal(train["y"][~target], data.train.fields["y"][~target])
        assert not train["y"][target].any()
        np.testing.assert_array_equal(train["x"][~target], data.train.fields["x"][~target])


@pytest.mark.parametrize("kind", [np.float32, np.uint8])
def test_inverted_in_the_units_of_the_data(kind):
    data = sample(kind)
    done = made(data, kind="invert")
    x, before = done.test.fields["x"], data.test.fields["x"]
    assert x.dtype == kind
    expected = 255 - before if kind is np.uint8 else np.array([2.0, 2.0])[:, None, None] - before
    np.testing.assert_allclose(x, expected, atol=1e-6)
    np.testing.assert_array_equal(done.test.fields["y"], data.test.fields["y"])
    assert done.test.fields["group"].all()
    assert done.splits["validation"] is data.splits["validation"]


def test_rotated_counterclockwise():
    data = sample()
    x = made(data, kind="rotate", angle=90).test.fields["x"]
    np.testing.assert_allclose(x, np.rot90(data.test.fields["x"], axes=(2, 3)), atol=1e-5)
    corner = made(data, kind="rotate", angle=45).test.fields["x"][:, :, 0, 0]
    np.testing.assert_allclose(corner, np.tile([-1.0, 0.0], (40, 1)), atol=1e-5)  # the darkest value


def test_noise_in_pixel_units_within_the_bounds():
    spec = SPEC.model_copy(update={"low": (-100.0,) * 2, "high": (100.0,) * 2, "scale": (4.0, 2.0)})
    data = sample(n=2000).replace(spec=spec)
    added = made(data, kind="noise", sigma=0.25).test.fields["x"] - data.test.fields["x"]
    np.testing.assert_allclose(added.std(axis=(0, 2, 3)), [1.0, 0.5], rtol=0.03)
    np.testing.assert_allclose(added.mean(axis=(0, 2, 3)), [0, 0], atol=0.03)
    bounded = made(sample(), kind="noise", sigma=5.0).test.fields["x"]
    assert (bounded.min(axis=(0, 2, 3)), bounded.max(axis=(0, 2, 3))) == (
        pytest.approx([-1, 0]),
        pytest.approx([3, 2]),
    )


def test_seeded_and_the_source_may_be_tested():
    data = sample()
    first, again, other = (made(data, seed).train.fields["group"].tobytes() for seed in (0, 0, 1))
    assert first == again != other
    done = made(data, test="source").test.fields
    np.testing.assert_array_equal(done["x"], data.test.fields["x"])
    assert not done["group"].any()


def test_what_it_cannot_shift_is_refused():
    with pytest.raises(BadData, match="domain empty"):
        made(sample(n=2), share=0.1)
    vectors = sample().replace(spec=SPEC.model_copy(update={"shape": (32,)}))
    with pytest.raises(BadData, match="images"):
        made(vectors)
