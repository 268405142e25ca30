"""Images as signals, put together again pixel by pixel."""

from __future__ import annotations

import numpy as np
import torch

from assay.plugins.contract import Context, Data, DataSpec, Split
from assay.plugins.prepare.transform.signals import Signals, grid

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 3, 4, 6)).astype(np.uint8)


def signals(context: float) -> Data:
    split = Split({"x": IMAGES, "y": np.zeros(20, dtype=np.int64)})
    data = Data(DataSpec(shape=(3, 4, 6), classes=("a", "b")), {"train": split, "test": split})
    transform = Signals(context=context)
    record = transform.fit(data, Context(rng=torch.Generator().manual_seed(0), spec=data.spec))
    return transform.apply(data, record)


def test_the_grid_reaches_from_corner_to_corner() -> None:
    np.testing.assert_allclose(grid(2, 3), [[-1, -1], [-1, 0], [-1, 1], [1, -1], [1, 0], [1, 1]])


def test_known_and_asked_pixels_make_up_the_image() -> None:
    data = signals(0.25)
    fields = data.train.fields
    assert fields["x"].shape == (20, 18, 2)
    assert fields["y_context"].shape == (20, 6, 3)
    assert data.spec.shape == (18, 2)
    assert data.spec.n_outputs == 3
    for i in range(20):
        again = np.full((3, 4, 6), np.nan)
        for where, value in (("x", "y"), ("x_context", "y_context")):
            for point, values in zip(fields[where][i], fields[value][i]):
                row, column = round((point[0] + 1) * 3 / 2), round((point[1] + 1) * 5 / 2)
                again[:, row, column] = values
        np.testing.assert_allclose(again, IMAGES[i] / 255, atol=1e-6)


def test_each_image_has_its_own_draw_and_each_split_its_own() -> None:
    data = signals(0.5)
    x = data.train.fields["x"]
    assert len({row.tobytes() for row in x}) == 20
    assert not np.array_equal(x, data.test.fields["x"])
