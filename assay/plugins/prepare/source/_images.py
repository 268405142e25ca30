"""Image files as arrays of equal size."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from assay.plugins.contract import BadData
from assay.plugins.prepare.source._common import listed


def read_image(file: Path | BinaryIO, size: int, mode: str) -> np.ndarray:
    """uint8 pixels (C, H, W) of one file, upright, resized to size x size where `size` is not 0.

    Raises ValueError with the reason where it cannot be read.
    """
    from PIL import Image, ImageOps

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(file) as opened:
                # Deeper pixels would be clipped at 255 by the conversion, not scaled.
                if opened.mode.startswith(("I", "F")):
                    raise ValueError(f"pixels of mode {opened.mode}: convert to 8 bits per channel")
                image = ImageOps.exif_transpose(opened).convert(mode)
        except Exception as error:  # decoders raise many kinds on damaged files
            raise ValueError(str(error) or type(error).__name__) from error
    if size:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def read_images(files: Sequence[tuple[str, Path | BinaryIO]], size: int, mode: str) -> np.ndarray:
    """uint8 images (N, C, H, W) of files, each with what it is called. Raises BadData naming unreadable ones, or two of
    different size."""
    images: np.ndarray | None = None
    faults: list[str] = []
    for i, (name, file) in enumerate(files):
        try:
            pixels = read_image(file, size, mode)
        except ValueError as error:
            faults.append(f"{name}: {error}")
            continue
        if images is None:
            images, first = np.empty((len(files), *pixels.shape), np.uint8), name
        if pixels.shape != images.shape[1:]:
            (h, w), (h2, w2) = images.shape[2:], pixels.shape[1:]
            raise BadData(f"mixed sizes: '{first}' is {w} x {h} and '{name}' is {w2} x {h2}: give `size` to resize")
        images[i] = pixels
    if faults:
        raise BadData(f"{len(faults)} image files cannot be read:\n{listed(faults)}")
    assert images is not None
    return images
