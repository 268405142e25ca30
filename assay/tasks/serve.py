"""A model artifact at work on new images and arrays, through its preprocessing to predictions and maps; and what
another program must know to do the same."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from assay.plugins import registry
from assay.plugins.contract import BadData, BadInput, Batch, Data, DataSpec, NotAuditable, Split, takes_time
from assay.tasks.artifacts import Step, load_card, load_model, preprocess, rebuild
from assay.tasks.export import INPUT, OUTPUT, SESSION_CONFIG, TIME
from assay.tasks.inference import PLAIN, Inference
from assay.tasks.subject import deployed, explainer, problem_of

MODES = {1: "L", 3: "RGB"}
RESIZE = "BILINEAR"
CLASSES = "classification"
ARRAY = ".npy"
OTHERWISE = f"give them as one {ARRAY} file"
Size = tuple[int, int]
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")


def image_files(paths: Sequence[Path]) -> list[Path]:
    """The image files among paths and inside folders. Raises BadInput where there is none."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found.extend(sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES))
        elif path.exists():
            found.append(path)
        else:
            raise BadInput(f"{path}: no such file")
    if not found:
        raise BadInput(f"no image files in {', '.join(map(str, paths))}")
    return found


def image_format(spec: DataSpec) -> dict[str, Any] | None:
    """How an image file becomes a model's input, up to the recorded preprocessing: by Pillow turned upright,
    converted to `mode` and resized to exactly `width` x `height` with the filter `resize`; then divided by
    `divide_by`, channels first. None where no image file can become one."""
    if spec.modality != "image" or len(spec.shape) != 3 or spec.shape[0] not in MODES:
        return None
    channels, height, width = spec.shape
    return {"mode": MODES[channels], "width": width, "height": height, "resize": RESIZE.lower(), "divide_by": 255}


def in_words(spec: DataSpec) -> str:
    """What a model takes."""
    size = " x ".join(map(str, spec.shape))
    if spec.modality == "image" and len(spec.shape) == 3:
        return f"images (channels x height x width: {size}), float32 in [0, 1] before the preprocessing"
    what = "feature vectors" if len(spec.shape) == 1 else "arrays"
    return f"{what} of {size} numbers, float32 as in the training data before the preprocessing"


def describe(folder: Path, name: str) -> dict[str, Any]:
    """What a program must know beside a model's ONNX file to use it without Assay, as plain JSON values."""
    card = load_card(folder)
    spec, raw = card.spec, card.raw
    taken: dict[str, Any] = {"name": INPUT, "type": "float32", "shape": ["batch", *spec.shape], "what": in_words(raw)}
    image = image_format(raw)
    if image is not None:
        taken["image"] = image
        taken["how"] = [
            "turn the image upright by its EXIF orientation",
            f"convert it to 8 bits per channel, {image['mode']} (as Pillow does; transparency is dropped)",
            f"resize it to exactly {image['width']} x {image['height']} (width x height), Pillow's {image['resize']}",
            f"divide by {image['divide_by']}: float32 in [0, 1]",
            f"channels first: {' x '.join(map(str, raw.shape))} (channels x height x width)",
            "apply every step of `preprocessing`, in order, in float32",
        ]
    problem = problem_of(spec)
    given: dict[str, Any] = {"name": OUTPUT, "type": "float32", "what": _about(problem)}
    if spec.problem == CLASSES:
        given["probabilities"] = "softmax over the classes"
    described = {
        "model": name,
        "key": folder.name,
        "problem": spec.problem,
        "classes": list(spec.classes),
        "input": taken,
        "preprocessing": [_step(step) for step in card.preprocessing],
        "output": given,
        "onnxruntime": SESSION_CONFIG,
        "spec": spec.model_dump(mode="json"),
    }
    if problem.samples:
        given["what"] = f"what the sampler asks of the network. {given['what']}"
    if takes_time(rebuild(card)):
        described["time"] = {"name": TIME, "type": "float32", "shape": ["batch"], "what": "the time, in [0, 1]"}
    return described


def _step(step: Step) -> dict[str, Any]:
    record = {**step.record.values, **{name: values.tolist() for name, values in step.record.tensors.items()}}
    return {"id": step.id, "does": _about(step.method()), "params": dict(step.params), "record": record}


def _about(method: Any) -> str:
    """The first paragraph of what a method says of itself."""
    return " ".join(inspect.cleandoc(type(method).__doc__ or "").partition("\n\n")[0].split())


def read_images(paths: Sequence[Path], wanted: Mapping[str, Any]) -> tuple[np.ndarray, list[Size]]:
    """Images as uint8 (N, C, H, W) in the format of `image_format`; and the width and height that each had.

    Raises BadData naming the file that cannot be read.
    """
    from PIL import Image, ImageOps

    rows, sizes = [], []
    for path in paths:
        try:
            with Image.open(path) as opened:
                if opened.mode.startswith(("I", "F")):
                    raise ValueError(f"pixels of mode {opened.mode}: convert to 8 bits per channel")
                image = ImageOps.exif_transpose(opened).convert(wanted["mode"])
        except Exception as error:  # decoders raise many kinds on damaged files
            raise BadData(f"{path}: not readable as an image: {error}") from error
        sizes.append(image.size)
        image = image.resize((wanted["width"], wanted["height"]), Image.Resampling[RESIZE])
        array = np.asarray(image, dtype=np.uint8)
        rows.append(array[None] if wanted["mode"] == "L" else array.transpose(2, 0, 1))
    return np.stack(rows), sizes


def predict_images(
    folder: Path,
    paths: Sequence[Path],
    device: str,
    exported: Path | None = None,
    inference: Inference = PLAIN,
) -> tuple[list[dict[str, Any]], Batch]:
    """One row an image, as the deployed model answers (file, its size, whether it was resized, label,
    probabilities by class), and the batch that the model saw. `exported` is the model's ONNX file, if there is one."""
    card = load_card(folder)
    wanted = image_format(card.raw)
    if wanted is None:
        raise BadInput(f"this model takes {in_words(card.raw)}, not image files: {OTHERWISE}")
    if card.spec.problem != CLASSES:
        raise BadInput(f"this model names no classes, its problem is {card.spec.problem}: {OTHERWISE}")
    files = image_files(paths)
    pixels, sizes = read_images(files, wanted)
    batch, prediction = answers(folder, pixels, device, exported, inference)
    probabilities = torch.softmax(prediction, dim=1).tolist()
    target = problem_of(card.spec).target(prediction)
    rows = [
        {
            "image": str(file),
            "size": list(size),
            "resized": size != (wanted["width"], wanted["height"]),
            "label": card.spec.classes[int(t)],
            "probabilities": dict(zip(card.spec.classes, p, strict=True)),
        }
        for file, size, t, p in zip(files, sizes, target, probabilities, strict=True)
    ]
    return rows, batch.replace(target=target.to(device))


def answers(
    folder: Path, raw: np.ndarray, device: str, exported: Path | None, inference: Inference
) -> tuple[Batch, Tensor]:
    """The deployed model's predictions (N, ...) of inputs as they are before the preprocessing, and the batch
    that it saw."""
    card = load_card(folder)
    split = preprocess(Data(card.raw, {"new": Split({"x": raw})}), card.preprocessing).splits["new"]
    batch = split.batch(slice(0, len(split))).to(device)
    return batch, deployed(card, lambda: load_model(folder).to(device), exported, inference)(batch)


def predict_array(
    folder: Path, path: Path, device: str, exported: Path | None = None, inference: Inference = PLAIN
) -> np.ndarray:
    """The deployed model's predictions (N, ...) of a .npy file of inputs as the training data had them, for a
    model of any problem. Raises BadData where the file holds something else, BadInput where the model predicts
    nothing of an input."""
    card = load_card(folder)
    if problem_of(card.spec).samples:
        raise BadInput("this model draws new examples and predicts nothing of an input: its evaluators show draws")
    return answers(folder, read_array(path, card.raw), device, exported, inference)[1].cpu().numpy()


def read_array(path: Path, spec: DataSpec) -> np.ndarray:
    """Inputs (N, *spec.shape) from a .npy file. Raises BadData saying what is wrong with it."""
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    wanted = f"one array of {' x '.join(map(str, ('N', *spec.shape)))} numbers, as in the training data"
    try:
        found: np.ndarray = np.load(path, allow_pickle=False)
        held = f"{found.dtype} {list(found.shape)}"
    except (OSError, ValueError, EOFError, AttributeError) as error:  # a .npz has no dtype
        raise BadData(f"{path}: not readable as an array: {error}; it takes {wanted}") from error
    if found.dtype.kind not in "fiu" or found.shape[1:] != spec.shape or not len(found):
        raise BadData(f"{path} holds {held}; it takes {wanted}")
    if not np.isfinite(found).all():
        raise BadData(f"{path} holds NaN or infinite numbers")
    return found


def write_maps(
    folder: Path,
    batch: Batch,
    saliency: str,
    out: Path,
    rows: Sequence[dict[str, Any]],
    device: str,
    inference: Inference = PLAIN,
) -> list[Path]:
    """Writes one PNG a map (brightness is |attribution|) and returns the files. Raises BadInput where the
    method is unknown or cannot be asked of the model."""
    from PIL import Image

    card = load_card(folder)
    try:
        method = registry.make("attribute/saliency", saliency, "--saliency")
        explain = explainer(method, 0, card.spec, torch.device(device), inference)
        found = explain(load_model(folder).to(device), batch)
    except (ValueError, NotAuditable) as error:
        raise BadInput(f"--saliency {saliency}: {error}") from error
    if found.over != "input":
        raise BadInput(f"--saliency {saliency}: its values are over {found.over}, not over pixels")
    values = found.values.abs().cpu().numpy()
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for i, (row, value) in enumerate(zip(rows, values, strict=True)):
        scaled = (255 * value / max(float(value.max()), 1e-12)).astype(np.uint8)
        files.append(out / f"{i:04d}-{Path(row['image']).stem}-{method.method_name()}.png")
        Image.fromarray(scaled).save(files[-1])
    return files


def resized(rows: Sequence[dict[str, Any]], spec: DataSpec) -> str:
    """A sentence on the images that are not of the model's size; '' where all are."""
    sizes = Counter(f"{width} x {height}" for width, height in (row["size"] for row in rows if row["resized"]))
    if not sizes:
        return ""
    count = sizes.total()
    shown = ", ".join(f"{size} ({n})" if len(sizes) > 1 else size for size, n in sizes.most_common(3))
    more = f" and {len(sizes) - 3} other sizes" if len(sizes) > 3 else ""
    width, height = spec.shape[2], spec.shape[1]
    return f"resized {count} of {len(rows)} images to {width} x {height} (width x height), from {shown}{more}"
