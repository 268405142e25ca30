"""A folder of image files, one subfolder per class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from assay.plugins.contract import BadData, Card, Context, Data, DataSpec, Field, Source, Split
from assay.plugins.prepare.source._common import given_path, held_out
from assay.plugins.prepare.source._images import read_images

LEFT_BY_SYSTEMS = ("Thumbs.db", "desktop.ini")
"""Files that operating systems drop into folders of images."""


def subfolders(folder: Path) -> list[Path]:
    """The folders inside, hidden ones left out, sorted by name."""
    return sorted((p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")), key=lambda p: p.name)


def class_files(folder: Path) -> dict[str, list[Path]]:
    """Each class's files, both sorted by name; hidden files are left out.

    Raises BadData: no class, a class without files, a folder inside a class.
    """
    found: dict[str, list[Path]] = {}
    for sub in subfolders(folder):
        inside = sorted(sub.iterdir(), key=lambda p: p.name)
        inside = [p for p in inside if not p.name.startswith(".") and p.name not in LEFT_BY_SYSTEMS]
        nested = [p.name for p in inside if p.is_dir()]
        if nested:
            raise BadData(f"class folder '{sub}' holds a folder, '{nested[0]}': images lie directly in their class")
        found[sub.name] = inside
    if not found:
        raise BadData(f"'{folder}' has no class folders: one subfolder for each class is needed")
    empty = [name for name, files in found.items() if not files]
    if empty:
        raise BadData(f"empty class folders in '{folder}': {', '.join(empty)}")
    return found


def split_folders(folder: Path) -> dict[str, Path]:
    """The folders of the splits: `train/` and perhaps `test/`, or the folder itself where these are classes.

    Raises BadData where other folders lie beside `train/`: they would be silently left out.
    """
    inside = {p.name: p for p in subfolders(folder)}
    if "train" not in inside or not subfolders(inside["train"]):
        return {"train": folder}
    others = sorted(set(inside) - {"train", "test"})
    if others:
        raise BadData(f"'{folder}' has `train/` and other folders: {', '.join(others)}; only `test/` may be beside it")
    return inside


class ImageFolder(Source):
    """Your own images: `path/<class>/<image>`, or `path/train/<class>/...` and `path/test/<class>/...`.

    Classes are sorted by name. Without `test/`, a share of each class is drawn for it.
    """

    card = Card(title="Folder of images", problems=("classification",), modality=("image",), library="Pillow")
    path: str = Field("", description="the folder; empty where the data set was added before")
    size: int = Field(0, ge=0, le=4096, description="resize to size x size pixels; 0 keeps the files' own, equal, size")
    grayscale: bool = Field(False, description="one channel in place of three")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="share of each class in the test split without `test/`")
    seed: int = Field(0, ge=0, description="seed of that draw")

    def load(self, ctx: Context) -> Data:
        """uint8 images (N, C, H, W) and int64 labels. Raises BadData naming the files or classes at fault."""
        folder = given_path(self.path, self.dataset or "image_folder")
        if not folder.is_dir():
            raise BadData(f"'{self.path}' is a file: `path` must name a folder with one subfolder for each class")
        found = {split: class_files(inside) for split, inside in split_folders(folder).items()}
        classes = tuple(found["train"])
        unknown = [name for name in found.get("test", {}) if name not in classes]
        if unknown:
            raise BadData(f"classes in `test/` that are not in `train/`: {', '.join(unknown)}")
        files = [
            (split, classes.index(c), file) for split, byc in found.items() for c, fs in byc.items() for file in fs
        ]
        x = read_images([(str(file), file) for _, _, file in files], self.size, "L" if self.grayscale else "RGB")
        y = np.array([label for _, label, _ in files], dtype=np.int64)
        if "test" in found:
            test = np.array([split == "test" for split, _, _ in files])
        else:
            test = held_out(y, self.test_fraction, self.seed)
        splits = {"train": Split({"x": x[~test], "y": y[~test]}), "test": Split({"x": x[test], "y": y[test]})}
        return Data(DataSpec(shape=x.shape[1:], classes=classes), splits, provenance={"source": "folder of images"})
