"""The grid of images, models and saliency maps: small palette PNGs with the ground-truth mask outlined."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from markupsafe import Markup

from assay.plugins.values import Batch, DataSpec
from assay.tasks.artifacts import load_attribution, load_result, not_auditable, read_json
from assay.tasks.cells import Ref
from assay.tasks.inference import inference_of
from assay.tasks.params import labels
from assay.tasks.plan import DENSE, RANDOM, Plan
from assay.tasks.report.svg import tag
from assay.tasks.store import Store
from assay.tasks.subject import cached_images

ROWS = 6
SIDE = 96
BUDGET = 1_200_000
"""Most bytes of PNG in a report."""

# Perceptually even: lightness rises with the value; both ends of a signed map are as far from its dark zero.
SEQUENTIAL = "000004 110a30 320a5e 57106e 781c6d 9a2865 bc3754 d84c3e ed6925 f98e09 fbb61a f4df53 fcffa4"
DIVERGING = "9eb0ff 6ca9e6 3e90bc 286886 1a4256 11212a 190c09 310f00 501803 7d341e a85a4a d2837a ffadad"


@dataclass(frozen=True)
class Tile:
    """One map in the grid, or why there is none."""

    source: str = ""
    score: str = ""
    flipped: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Picture:
    """One audited image with its label and its mask's outline."""

    source: str
    label: str
    target: str
    outline: Markup
    width: int
    height: int


@dataclass(frozen=True)
class Grid:
    """The maps of one saliency method: `tiles[i][m]` for picture i and model m."""

    name: str
    signed: bool
    models: list[str]
    tiles: list[list[Tile]]
    score: str


@dataclass(frozen=True)
class Gallery:
    """All grids over the same pictures; `reason` where there are none."""

    pictures: list[Picture]
    grids: list[Grid]
    reason: str = ""


def palette(colours: str) -> np.ndarray:
    """256 colours (256, 3) uint8 through evenly spaced ones given in hex."""
    anchors = np.array([[int(c[i : i + 2], 16) for i in (0, 2, 4)] for c in colours.split()], dtype=float)
    places = np.linspace(0, len(anchors) - 1, 256)
    channels = [np.interp(places, np.arange(len(anchors)), anchors[:, i]) for i in range(3)]
    return np.stack(channels, axis=1).round().astype(np.uint8)


def png(pixels: np.ndarray, colours: np.ndarray | None = None) -> str:
    """A data URI of (H, W) uint8 indices into `colours`, of (H, W) grey or of (H, W, 3) values."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels))
    if colours is not None:
        image.putpalette(colours.tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def map_pixels(values: np.ndarray, signed: bool) -> np.ndarray:
    """A map (H, W) as palette indices: its 99th percentile of magnitude is the end of the scale."""
    values = np.nan_to_num(values.astype(float))
    top = float(np.quantile(np.abs(values), 0.99)) or float(np.abs(values).max()) or 1.0
    scaled = np.clip(values / top, -1 if signed else 0, 1)
    return (255 * (scaled + 1) / 2 if signed else 255 * scaled).round().astype(np.uint8)


def thin(array: np.ndarray, step: int) -> np.ndarray:
    """(H, W, ...) with means over squares of `step` pixels; what does not fill a square is cut off."""
    if step == 1:
        return array
    h, w = array.shape[0] // step, array.shape[1] // step
    return array[: h * step, : w * step].reshape(h, step, w, step, *array.shape[2:]).mean((1, 3))


def picture_pixels(x: np.ndarray, spec: DataSpec) -> np.ndarray:
    """An image (C, H, W) in the model's units as grey (H, W) or colour (H, W, 3) uint8."""
    low, high = (np.array(v, dtype=float).reshape(-1, 1, 1) for v in (spec.low, spec.high))
    shown = np.clip((x - low) / np.where(high > low, high - low, 1), 0, 1)
    shown = shown.transpose(1, 2, 0) if len(x) == 3 else shown.mean(0)
    return (255 * shown).round().astype(np.uint8)


def outline(mask: np.ndarray) -> Markup:
    """The edge of a mask (H, W) as an SVG drawing in pixel units."""
    inside = np.pad(mask > 0, 1)
    parts = []
    for y, x, run in _runs(inside[1:] != inside[:-1]):
        parts.append(f"M{x - 1} {y}h{run}")
    for x, y, run in _runs((inside[:, 1:] != inside[:, :-1]).T):
        parts.append(f"M{x} {y - 1}v{run}")
    d = "".join(parts)
    size = {"viewBox": f"0 0 {mask.shape[1]} {mask.shape[0]}", "class": "outline", "preserveAspectRatio": "none"}
    return tag("svg", size, tag("path", {"d": d, "class": "halo"}), tag("path", {"d": d})) if d else Markup("")


def _runs(edges: np.ndarray) -> list[tuple[int, int, int]]:
    """Row, first column and length of each run of True."""
    padded = np.pad(edges.astype(np.int8), ((0, 0), (1, 1)))
    step = np.diff(padded, axis=1)
    starts, ends = np.argwhere(step == 1), np.argwhere(step == -1)
    return [(int(r), int(a), int(b - a)) for (r, a), (_, b) in zip(starts, ends, strict=True)]


def gallery(plan: Plan, store: Store) -> Gallery:
    """The grids of a finished run."""
    section = plan.params.attribute
    if not section.saliency:
        left_out = (why for what, why in plan.skipped if what == "attribute")
        return Gallery([], [], next(left_out, "no saliency method was asked for"))
    main, dense = plan.data["main"], plan.models[DENSE]
    folders = [store.folder(ref.slot, ref.key) for ref in (dense, main)]
    cell = plan.cells[plan.saliency[DENSE, labels(section.saliency)[0]].key]
    inputs = {role: store.folder(ref.slot, ref.key) for role, ref in cell.inputs.items()}
    inference = inference_of(cell.spec, inputs, torch.device("cpu"))
    images = cached_images(folders[0], folders[1], section.images, int(cell.spec["seed"]), "cpu", inference)
    meta = read_json(folders[1] / "dataset.json")
    spec = DataSpec(**meta["spec"])
    if images.x.ndim != 4:
        return Gallery([], [], f"the data are no images: one example has shape {list(spec.shape)}")
    models = [DENSE, *plan.reseeded, *plan.variants, RANDOM]
    names = labels(section.saliency)
    kept = {(m, s): _kept(plan.saliency[m, s], store) for m in models for s in names if (m, s) in plan.saliency}
    chosen = choose(images, [kept[v, names[0]] for v in plan.variants if (v, names[0]) in kept])
    step = max(1, math.ceil(max(images.x.shape[2:]) / SIDE))
    pictures = [_picture(images, i, spec, step) for i in chosen]
    grids: list[Grid] = []
    for name in names:
        grid = _grid(plan, store, name, models, chosen, kept, step, images)
        spent = sum(len(t.source) for g in [*grids, grid] for row in g.tiles for t in row)
        if spent > BUDGET:
            break
        grids.append(grid)
    left = names[len(grids) :]
    return Gallery(pictures, grids, f"left out to keep the file small: {', '.join(left)}" if left else "")


def choose(images: Batch, kept: Sequence[np.ndarray | None]) -> list[int]:
    """Which images to show: up to two whose label a variant changes, the others evenly from all."""
    flips = np.zeros(images.size)
    for one in kept:
        if one is not None and len(one) == images.size:
            flips += ~one
    flipped = [int(i) for i in np.argsort(-flips, kind="stable")[:2] if flips[i]]
    even = np.linspace(0, images.size - 1, min(ROWS, images.size)).round().astype(int).tolist()
    rest = [i for i in even if i not in flipped]
    return sorted([*flipped, *rest[: ROWS - len(flipped)]])


def _kept(ref: Ref, store: Store) -> np.ndarray | None:
    path = store.folder(ref.slot, ref.key) / "kept.json"
    return np.array(read_json(path)["kept"], dtype=bool) if path.exists() else None


def _picture(images: Batch, i: int, spec: DataSpec, step: int) -> Picture:
    def name(field: str) -> str:
        # A target is a class's number where there are classes; other problems have none to name.
        if field not in images or images[field].ndim != 1 or not spec.classes:
            return ""
        return spec.classes[int(images[field][i])]

    pixels = picture_pixels(images.x[i].numpy(), spec)
    height, width = pixels.shape[:2]
    drawn = outline(images["mask"][i].numpy()) if "mask" in images else Markup("")
    small = thin(pixels.astype(float), step).round().astype(np.uint8)
    return Picture(png(small), name("y"), name("target"), drawn, width, height)


def _grid(
    plan: Plan, store: Store, name: str, models: Sequence[str], chosen: Sequence[int],
    kept: dict[tuple[str, str], np.ndarray | None], step: int, images: Batch,
) -> Grid:  # fmt: skip
    agreements = labels(plan.params.attribute.agreement)
    first = agreements[0] if agreements else ""
    columns: dict[str, list[Tile]] = {}
    values, reasons = {}, {}
    for model in models:
        ref = plan.saliency[model, name]
        folder = store.folder(ref.slot, ref.key)
        reason = not_auditable(folder)
        attribution = None if reason else load_attribution(folder)
        if attribution is None:
            reasons[model] = reason
        elif attribution.over != "input" or attribution.values.ndim != 3:
            reasons[model] = f"its maps are over {attribution.over}, not over pixels"
        else:
            values[model] = attribution.values[list(chosen)].numpy()
    signed = any((v < 0).any() for v in values.values())
    colours = palette(DIVERGING if signed else SEQUENTIAL)
    for model in models:
        if model not in values:
            columns[model] = [Tile(reason=reasons[model]) for _ in chosen]
            continue
        scores = _scores(plan.agreement.get((model, name, first)), store)
        flags = kept.get((model, name))
        columns[model] = [
            Tile(
                png(map_pixels(thin(values[model][row], step), signed), colours),
                _score(scores, i, model),
                flags is not None and not bool(flags[i]),
            )
            for row, i in enumerate(chosen)
        ]
    tiles = [[columns[m][row] for m in models] for row in range(len(chosen))]
    return Grid(name, signed, list(models), tiles, first)


def _score(scores: np.ndarray | None, i: int, model: str) -> str:
    if model == DENSE:
        return "reference"
    return f"{scores[i]:.2f}".replace("-", "−") if scores is not None and np.isfinite(scores[i]) else ""


def _scores(ref: Ref | None, store: Store) -> np.ndarray | None:
    """The agreement's value for each image."""
    if ref is None:
        return None
    numbers = load_result(store.folder(ref.slot, ref.key)).numbers
    return next(iter(numbers.values())).each if numbers else None
