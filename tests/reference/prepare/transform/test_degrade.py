"""Degradations against scipy, Pillow and the noise's own statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from assay.plugins.contract import BadInput, Context, Data, DataSpec, Split
from assay.plugins.prepare.transform.degrade import Degrade, gaussian_blur, shrink
from assay.plugins.prepare.transform.normalize import Normalize

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (300, 2, 12, 8)).astype(np.uint8)


def context(data: Data) -> Context:
    return Context(rng=torch.Generator().manual_seed(0), spec=data.spec)


def make(**params: object) -> tuple[Data, Data]:
    """The data before and after."""
    split = Split({"x": IMAGES, "y": np.zeros(300, dtype=np.int64)})
    data = Data(DataSpec(shape=(2, 12, 8), classes=("a", "b")), {"train": split, "test": split.take(np.arange(50))})
    transform = Degrade(**params)  # type: ignore[arg-type]
    return data, transform.apply(data, transform.fit(data, context(data)))


@pytest.mark.parametrize("sigma", [0.5, 1.3])
def test_blur_is_scipys(sigma: float) -> None:
    x = RNG.random((3, 2, 17, 12))
    found = gaussian_blur(torch.from_numpy(x), sigma).numpy()
    for image, blurred in zip(x.reshape(-1, 17, 12), found.reshape(-1, 17, 12)):
        np.testing.assert_allclose(
            blurred, ndimage.gaussian_filter(image, sigma, mode="mirror", truncate=4), atol=1e-12
        )


def test_a_wide_blur_of_a_small_image_keeps_a_constant() -> None:
    torch.testing.assert_close(gaussian_blur(torch.full((1, 1, 4, 4), 0.3), 9.0), torch.full((1, 1, 4, 4), 0.3))


def test_shrinking_is_pillows_bicubic() -> None:
    x = RNG.random((12, 12)).astype(np.float32)
    small = Image.fromarray(x).resize((6, 6), Image.Resampling.BICUBIC)
    found = shrink(torch.from_numpy(x)[None, None], 2)
    # Enlarging is not antialiased and uses a = -0.75, so only the smaller image is compared.
    again = torch.nn.functional.interpolate(torch.from_numpy(np.asarray(small))[None, None], (12, 12), mode="bicubic")
    torch.testing.assert_close(found, again, atol=1e-5, rtol=0)


def test_noise_has_its_deviation_and_the_clean_image_is_the_target() -> None:
    before, after = make(sigma=0.2)
    x, y = after.train.fields["x"], after.train.fields["y"]
    np.testing.assert_array_equal(y, IMAGES.astype(np.float32) / np.float32(255))
    assert abs((x - y).std() - 0.2) < 0.003
    assert abs((x - y).mean()) < 0.003
    assert after.spec.problem == "restoration"
    assert after.spec.classes == ()
    assert not np.array_equal(after.test.fields["x"], x[:50])
    assert before.train.fields["x"] is IMAGES


def test_twice_keeps_the_first_clean_image() -> None:
    _, once = make(kind="blur", radius=0.7)
    noise = Degrade(sigma=0.1)
    twice = noise.apply(once, noise.fit(once, context(once)))
    np.testing.assert_array_equal(twice.train.fields["y"], once.train.fields["y"])
    assert abs((twice.train.fields["x"] - once.train.fields["x"]).std() - 0.1) < 0.003


def test_normalisation_moves_both_images_and_the_unit_of_noise() -> None:
    before, degraded = make(sigma=0.2)
    normal = Normalize()
    later = normal.apply(degraded, normal.fit(degraded, context(degraded)))
    scale = np.array(later.spec.scale).reshape(-1, 1, 1)
    np.testing.assert_allclose(
        (later.train.fields["x"] - later.train.fields["y"]) / scale,
        degraded.train.fields["x"] - degraded.train.fields["y"],
        atol=1e-5,
    )
    first = normal.apply(before, normal.fit(before, context(before)))
    noise = Degrade(sigma=0.2)
    noisy = noise.apply(first, noise.fit(first, context(first)))
    rest = (noisy.train.fields["x"] - noisy.train.fields["y"]) / np.array(noisy.spec.scale).reshape(-1, 1, 1)
    assert abs(rest.std() - 0.2) < 0.003


def test_what_cannot_be_shrunk() -> None:
    with pytest.raises(BadInput, match="factor 5 does not divide images of 12 x 8"):
        make(kind="shrink", factor=5)
