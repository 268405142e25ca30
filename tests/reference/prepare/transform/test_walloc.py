"""The wavelet against its filters' taps, the code against its formula, and what it is worth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from assay.plugins.contract import BadInput, Context, Data, DataSpec, Record, Split
from assay.plugins.prepare.transform.walloc import WaLLoC, analyse, fit_codec, halves, limited, synthesise, whole

# CDF 9/7 as filters (biorthogonal 4.4), from the middle outwards.
LOW = [0.8526986790088938, 0.37740285561283066, -0.11062440441843718, -0.023849465019556843, 0.03782845550726404]
HIGH = [0.7884856164055829, -0.41809227322161724, -0.04068941760916406, 0.06453888262869706]
DIGITS = (load_digits().images[:, None] / 16).astype(np.float32)


def symmetric(half: list[float]) -> np.ndarray:
    return np.array([*half[:0:-1], *half])


def filtered(x: np.ndarray, taps: np.ndarray, start: int) -> np.ndarray:
    """Every second value, from `start` on, of a periodic signal's convolution with symmetric taps."""
    reach = len(taps) // 2
    return np.array([sum(t * x[(i + k - reach) % len(x)] for k, t in enumerate(taps)) for i in range(start, len(x), 2)])


def test_the_bands_are_those_of_the_filters() -> None:
    x = np.random.default_rng(0).normal(size=14)
    low, high = halves(torch.from_numpy(x))
    np.testing.assert_allclose(low.numpy(), filtered(x, symmetric(LOW), 0), atol=1e-9)
    np.testing.assert_allclose(high.numpy(), filtered(x, symmetric(HIGH), 1), atol=1e-9)


def test_four_vanishing_moments() -> None:
    at = torch.arange(32, dtype=torch.float64)
    for power in range(4):
        inner = halves(at**power)[1][4:-4]  # away from where the period jumps
        assert float(inner.abs().max()) < 1e-7 * float((at**power).max())


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_packets_go_back(levels: int) -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 16, 8)))
    bands = analyse(x, levels)
    assert bands.shape == (2, 3 * 4**levels, 16 >> levels, 8 >> levels)
    torch.testing.assert_close(synthesise(bands, levels), x, atol=1e-12, rtol=0)
    torch.testing.assert_close(whole(*halves(x)), x, atol=1e-12, rtol=0)


def test_each_channels_bands_stay_together() -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 2, 8, 8)))
    bands = analyse(x, 2)
    for channel in range(2):
        torch.testing.assert_close(bands[:, 16 * channel : 16 * channel + 16], analyse(x[:, channel : channel + 1], 2))
    # A row's low band, then a column's: the first packet is the scaled mean of a constant image.
    flat = analyse(torch.ones(1, 1, 8, 8, dtype=torch.float64), 1)
    torch.testing.assert_close(flat[0, :, 0, 0], torch.tensor([2.0, 0, 0, 0], dtype=torch.float64), atol=1e-9, rtol=0)


def test_latents_worked_by_hand() -> None:
    """Bands (4, 1, 1) of a 2 x 2 image, one latent: weights times bands plus bias, limited, rounded, / 8."""
    x = np.array([[[[0.2, 0.6], [0.4, 0.8]]]], dtype=np.float32)
    split = Split({"x": x, "y": np.array([0]), "mask": np.ones((1, 2, 2), dtype=bool)})
    data = Data(DataSpec(shape=(1, 2, 2), classes=("a", "b")), {"new": split})
    bands = analyse(torch.from_numpy(x), 1).flatten().numpy()
    weights = np.array([[1.0, 2.0, -3.0, 0.5], [9.0, 0.0, 0.0, 0.0]], dtype=np.float32)
    record = Record(tensors={"weight": torch.from_numpy(weights)[:, :, None, None], "bias": torch.tensor([0.1, 0.0])})
    found = WaLLoC(levels=1, channels=2, bits=4).apply(data, record)
    expected = round(float(weights[0] @ bands + 0.1)) / 8
    assert found.splits["new"].fields["x"].flatten().tolist() == [expected, 7 / 8]  # the second is at its limit
    assert found.spec.shape == (2, 1, 1)
    assert "mask" not in found.splits["new"].fields


def test_the_codec_gives_back_nearly_what_principal_components_do() -> None:
    """A linear code of 16 dimensions cannot beat 16 principal components; the codec works on quarters of the image
    alone and rounds, and still comes near."""
    codec = fit_codec(DIGITS[:1400], levels=2, channels=4, hidden=32, bits=8, steps=400, lr=5e-3, seed=0)
    test = DIGITS[1400:]
    with torch.no_grad():
        latents = limited(analyse(torch.from_numpy(test), 2), *codec.encoder(), 8).round()
        again = synthesise(codec.decode(latents), 2).numpy()
    assert latents.shape == (len(test), 4, 2, 2)
    best = PCA(16).fit(DIGITS[:1400].reshape(-1, 64))
    flat = test.reshape(-1, 64)
    bound = np.square(best.inverse_transform(best.transform(flat)) - flat).mean()
    error = np.square(again - test).mean()
    assert error < 2 * bound
    assert error < 0.15 * test.var()


def test_sides_that_cannot_be_halved() -> None:
    data = Data(DataSpec(shape=(1, 8, 8), classes=("a", "b")), {"train": Split({"x": DIGITS[:5]})})
    with pytest.raises(BadInput, match="multiples of 16"):
        WaLLoC(levels=4).fit(data, Context(rng=torch.Generator(), spec=data.spec))
