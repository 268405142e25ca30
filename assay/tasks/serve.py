"""A model artifact at work on new images: through its preprocessing to labels, probabilities and maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from assay.plugins import registry
from assay.plugins.contract import BadData, BadInput, Batch, Data, NotAuditable, Split
from assay.tasks.artifacts import load_card, load_model, preprocess
from assay.tasks.subject import explainer, predict_rows, problem_of

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


def read_images(paths: Sequence[Path], channels: int, height: int, width: int) -> np.ndarray:
    """Images as uint8 (N, C, H, W), upright, converted to the model's channels and resized to its size.

    Raises BadData naming the file that cannot be read.
    """
    from PIL import Image, ImageOps

    rows = []
    for path in paths:
        try:
            with Image.open(path) as opened:
                if opened.mode.startswith(("I", "F")):
                    raise ValueError(f"pixels of mode {opened.mode}: convert to 8 bits per channel")
                image = ImageOps.exif_transpose(opened).convert("L" if channels == 1 else "RGB")
        except Exception as error:  # decoders raise many kinds on damaged files
            raise BadData(f"{path}: not readable as an image: {error}") from error
        array = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), dtype=np.uint8)
        rows.append(array[None] if channels == 1 else array.transpose(2, 0, 1))
    return np.stack(rows)


def predict_images(folder: Path, paths: Sequence[Path], device: str) -> tuple[list[dict[str, Any]], Batch]:
    """One row an image (file, label, probabilities by class), and the batch that the model saw."""
    card = load_card(folder)
    if len(card.spec.shape) != 3:
        raise BadInput(f"this model does not take images: its inputs have shape {card.spec.shape}")
    channels, height, width = card.spec.shape
    files = image_files(paths)
    new = Data(card.spec, {"new": Split({"x": read_images(files, channels, height, width)})})
    split = preprocess(new, card.preprocessing).splits["new"]
    batch = split.batch(slice(0, len(split))).to(device)
    model = load_model(folder).to(device)
    prediction = predict_rows(model, batch, card.spec)
    probabilities = torch.softmax(prediction, dim=1).tolist()
    target = problem_of(card.spec).target(prediction)
    rows = [
        {
            "image": str(file),
            "label": card.spec.classes[int(t)],
            "probabilities": dict(zip(card.spec.classes, p, strict=True)),
        }
        for file, t, p in zip(files, target, probabilities, strict=True)
    ]
    return rows, batch.replace(target=target.to(device))


def write_maps(
    folder: Path, batch: Batch, saliency: str, out: Path, rows: Sequence[dict[str, Any]], device: str
) -> list[Path]:
    """Writes one PNG a map (brightness is |attribution|) and returns the files. Raises BadInput where the
    method is unknown or cannot be asked of the model."""
    from PIL import Image

    card = load_card(folder)
    try:
        method = registry.make("attribute/saliency", saliency, "--saliency")
        found = explainer(method, 0, card.spec, torch.device(device))(load_model(folder).to(device), batch)
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
