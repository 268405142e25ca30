"""The grid of draws: every array `samples` of images in a result, a picture a model, beside the data's `examples`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from assay.plugins.values import DataSpec
from assay.tasks.artifacts import load_result
from assay.tasks.plan import DENSE, Plan
from assay.tasks.report.maps import SIDE, picture_pixels, png, thin
from assay.tasks.store import Store

COLUMNS = 6
SHOWN = 36


@dataclass(frozen=True)
class Sheet:
    """One model's draws, or the data's own examples, as one picture."""

    name: str
    source: str
    count: int


def sheets(plan: Plan, store: Store, spec: DataSpec) -> list[tuple[str, list[Sheet]]]:
    """For each evaluator that kept draws of images its sheets, the data's first."""
    found = []
    for method in dict.fromkeys(label for _, label in plan.evaluation):
        drawn = list(_sheets(plan, store, method, spec))
        if drawn:
            found.append((method, drawn))
    return found


def _sheets(plan: Plan, store: Store, method: str, spec: DataSpec) -> Iterator[Sheet]:
    for model in [DENSE, *plan.reseeded, *plan.variants]:
        ref = plan.evaluation.get((model, method))
        folder = None if ref is None else store.folder(ref.slot, ref.key)
        arrays = load_result(folder).arrays if folder is not None and (folder / "result.json").exists() else {}
        if not _images(arrays, "samples", spec):
            continue
        if model == DENSE and _images(arrays, "examples", spec):
            yield sheet("data", arrays["examples"], spec)
        yield sheet(model, arrays["samples"], spec)


def _images(arrays: Mapping[str, np.ndarray], name: str, spec: DataSpec) -> bool:
    found = arrays.get(name)
    return found is not None and found.ndim == 4 and found.shape[1:] == spec.shape and len(found) > 0


def sheet(name: str, images: np.ndarray, spec: DataSpec) -> Sheet:
    """Images (N, C, H, W) in the model's units side by side, six in a row, a white line between them."""
    shown = images[:SHOWN]
    step = max(1, math.ceil(max(shown.shape[2:]) / SIDE))
    tiles = [thin(picture_pixels(one, spec).astype(float), step) for one in shown]
    height, width = tiles[0].shape[:2]
    rows = math.ceil(len(tiles) / COLUMNS)
    page = np.full((rows * (height + 1) - 1, COLUMNS * (width + 1) - 1, *tiles[0].shape[2:]), 255.0)
    for i, tile in enumerate(tiles):
        top, left = i // COLUMNS * (height + 1), i % COLUMNS * (width + 1)
        page[top : top + height, left : left + width] = tile
    return Sheet(name, png(page.round().astype(np.uint8)), len(shown))
