"""Images as signals: values at coordinates."""

from __future__ import annotations

import numpy as np

from assay.plugins.contract import BadInput, Card, Context, Data, Field, Record, Split, Transform
from assay.plugins.prepare.transform._common import draw_seed, model_units, split_rng


def grid(height: int, width: int) -> np.ndarray:
    """The coordinates (H * W, 2), row and column, of an image's pixels, in rows; the corners are at -1 and 1."""
    rows, columns = (np.linspace(-1, 1, side, dtype=np.float32) for side in (height, width))
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)


class Signals(Transform):
    """Makes each image a signal of its own: `x_context` and `y_context` are the pixels that are known of it, drawn
    at random, `x` and `y` the others, to be predicted.

    Values are in pixel units, 0 to 1. Labels and masks are dropped.
    """

    card = Card(
        title="Images as functions of coordinates",
        modality=("image",),
        gives=("x_context", "y_context"),
        makes="field",
    )
    context: float = Field(0.5, gt=0, lt=1, description="share of each image's pixels that are known")

    def fit(self, data: Data, ctx: Context) -> Record:
        """The seed of the draws. Raises BadInput where the examples are no images of two pixels and more."""
        if len(data.spec.shape) != 3 or data.spec.shape[1] * data.spec.shape[2] < 2:
            raise BadInput(f"transform/signals needs images (C, H, W), the examples have shape {list(data.spec.shape)}")
        return Record({"seed": draw_seed(ctx)})

    def apply(self, data: Data, record: Record) -> Data:
        """float32 x (N, P, 2), y (N, P, C) and the context's in every split."""
        channels, height, width = data.spec.shape
        points = height * width
        known = min(max(round(self.context * points), 1), points - 1)
        low, scale = (np.asarray(v, dtype=np.float32).reshape(-1) for v in (data.spec.low, data.spec.scale))
        where = grid(height, width)

        def change(name: str, split: Split) -> Split:
            images = model_units(split.fields["x"]).reshape(-1, channels, points).transpose(0, 2, 1)
            values = (images - low) / scale
            rng = split_rng(record.values["seed"], name)
            order = np.argsort(rng.random((len(values), points)), axis=1)
            context, rest = order[:, :known], order[:, known:]

            def at(which: np.ndarray) -> np.ndarray:
                return np.take_along_axis(values, which[:, :, None], axis=1)

            return Split({"x": where[rest], "y": at(rest), "x_context": where[context], "y_context": at(context)})

        spec = data.spec.model_copy(
            update={
                "problem": "field",
                "modality": "coordinates",
                "shape": (points - known, 2),
                "classes": (),
                "outputs": channels,
                "low": (-1.0,),
                "high": (1.0,),
                "scale": (1.0,),
            }
        )
        return data.map(change).replace(spec=spec)
