"""Your own NumPy arrays."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np

from assay.plugins.contract import BadData, Card, Context, Data, DataSpec, Field, Source, Split
from assay.plugins.prepare.source._common import given_path, held_out

Arrays = dict[str, np.ndarray]
NEEDED = "x_train, y_train, x_test and y_test, or x and y"


def read_arrays(path: Path) -> Arrays:
    """The arrays of an .npz file or of a folder of .npy files, by name. Raises BadData where they cannot be read."""
    if not path.is_dir() and path.suffix != ".npz":
        raise BadData(f"'{path}' must be an .npz file or a folder of .npy files, holding {NEEDED}")
    found: Arrays = {}
    at = path
    try:
        if path.is_dir():
            for at in sorted(path.glob("*.npy")):
                found[at.stem] = np.load(at, allow_pickle=False)
        else:
            loaded = np.load(path, allow_pickle=False)
            if isinstance(loaded, np.lib.npyio.NpzFile):
                with loaded as archive:
                    found = {name: archive[name] for name in sorted(archive.files)}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        # NumPy's own advice for what is no array file is to load it as a pickle, which nothing here does.
        why = "it is no file that NumPy wrote, or holds Python objects" if "pickle" in str(error) else str(error)
        raise BadData(f"'{at}' cannot be read as NumPy arrays of numbers: {why}") from error
    if not found:
        raise BadData(f"'{path}' holds no named arrays: {NEEDED} are needed")
    return found


def clean(name: str, array: np.ndarray) -> np.ndarray:
    """Floats as float32; booleans and integers as they are.

    Raises BadData: no numbers, no examples, NaN or infinity (also beyond float32's range).
    """
    if array.dtype.kind not in "fiub":
        raise BadData(f"{name} is of type {array.dtype}: it must hold numbers")
    if array.ndim == 0 or len(array) == 0:
        raise BadData(f"{name} has no examples")
    if array.dtype.kind != "f":
        return array
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    wrong = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
    if len(wrong):
        raise BadData(f"{name} holds NaN or infinity, first in example {wrong[0]} ({len(wrong)} such examples)")
    return array


def by_split(arrays: Arrays) -> dict[str, Arrays]:
    """The fields of `train` and `test`, or of the one part "" that is still to be split.

    Raises BadData: x missing, both layouts at once, a name that is no field's.
    """
    if "x" in arrays and "x_train" not in arrays:
        parts = {"": dict(arrays)}
    elif {"x_train", "x_test"} <= set(arrays) and "x" not in arrays:
        odd = [name for name in arrays if not name.endswith(("_train", "_test"))]
        if odd:
            raise BadData(f"array '{odd[0]}' belongs to no split: its name must end in _train or _test")
        parts = {
            split: {name.removesuffix("_" + split): a for name, a in arrays.items() if name.endswith("_" + split)}
            for split in ("train", "test")
        }
    else:
        raise BadData(f"the arrays are {', '.join(arrays)}; needed are {NEEDED}")
    for fields in parts.values():
        # Field names become file names, and the frame numbers the examples in `index`.
        bad = [name for name in fields if name == "index" or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name)]
        if bad:
            raise BadData(f"'{bad[0]}' cannot be a field's name: use letters, digits and _, and not 'index'")
    return parts


def as_images(name: str, x: np.ndarray) -> np.ndarray:
    """Images (N, C, H, W), uint8 or float32 in [0, 1], from (N, H, W), (N, H, W, C) or (N, C, H, W).

    Of four axes the last one is the channels where it has 1 or 3 entries and the second has not; else
    the second is. Raises BadData where the values are not those of pixels.
    """
    if x.ndim not in (3, 4):
        raise BadData(f"{name} has shape {x.shape}: images are (N, H, W), (N, H, W, C) or (N, C, H, W)")
    if x.dtype.kind == "b":
        x = x.astype(np.uint8) * np.uint8(255)
    top = 1 if x.dtype.kind == "f" else 255
    wrong = np.flatnonzero(((x < 0) | (x > top)).reshape(len(x), -1).any(axis=1))
    if len(wrong):
        raise BadData(
            f"{name} has the shape of images, but values outside 0..{top}, first in example {wrong[0]} "
            f"({len(wrong)} such examples): give whole numbers in 0..255, floats in [0, 1], or set `modality: features`"
        )
    x = x if x.dtype.kind == "f" else x.astype(np.uint8)
    if x.ndim == 3:
        return x[:, None]
    channels_last = x.shape[3] in (1, 3) and x.shape[1] not in (1, 3)
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if channels_last else x


def as_labels(name: str, y: np.ndarray) -> np.ndarray:
    """int64 class numbers (N,). Raises BadData where they are not whole numbers from 0 on."""
    if y.ndim != 1:
        raise BadData(f"{name} has shape {y.shape}: labels are one number for each example, shape (N,)")
    wrong = np.flatnonzero((y != np.round(y)) | (y < 0)) if y.dtype.kind != "b" else np.zeros(0)
    if len(wrong):
        raise BadData(f"{name}: label {y[wrong[0]]} of example {wrong[0]} is not a whole number from 0 on")
    return y.astype(np.int64)


def as_mask(name: str, mask: np.ndarray, x: np.ndarray) -> np.ndarray:
    """bool (N, H, W), True on the signal. Raises BadData where shape or values are not a mask's."""
    if mask.shape != (len(x), *x.shape[2:]):
        raise BadData(f"{name} has shape {mask.shape}: the images' mask has {(len(x), *x.shape[2:])}")
    if not np.isin(mask, (0, 1)).all():
        raise BadData(f"{name} holds values other than 0 and 1")
    return mask.astype(bool)


class ArrayFiles(Source):
    """Your own arrays: an .npz file or a folder of .npy files with x_train, y_train, x_test, y_test.

    With x and y in their place a share is drawn as the test split. Other arrays `<name>_train`,
    `<name>_test` (or `<name>` beside x) travel along, one entry an example: `mask`, `group`, ...
    """

    card = Card(title="NumPy arrays")
    path: str = Field("", description="the .npz file or the folder; empty where the data set was added before")
    problem: str = Field("classification", pattern=r"^[a-z_]+$", description="what y means: a name in problems/")
    modality: Literal["auto", "image", "features"] = Field(
        "auto",
        description="image: x has 3 or 4 axes and whole numbers in 0..255 or floats in [0, 1]; "
        "features: any numbers, kept as float32; auto: image where x has 3 or 4 axes",
    )
    classes: tuple[str, ...] = Field((), description="the classes' names; their numbers where empty")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="share of the examples in the test split, with x and y")
    seed: int = Field(0, ge=0, description="seed of that draw")

    def load(self, ctx: Context) -> Data:
        """The data; x is uint8 or float32, y int64 class numbers, or float32 in other problems.

        Raises BadData naming the array, and the first example at fault.
        """
        path = given_path(self.path, self.dataset or "arrays")
        raw = {name: clean(name, array) for name, array in read_arrays(path).items()}
        parts = {split: self.fields(split, fields) for split, fields in by_split(raw).items()}
        if "" in parts:
            whole = Split(parts[""])
            classification = self.problem == "classification"
            groups = whole.fields["y"] if classification else np.zeros(len(whole), dtype=np.int64)
            test = held_out(groups, self.test_fraction, self.seed)
            splits = {"train": whole.take(np.flatnonzero(~test)), "test": whole.take(np.flatnonzero(test))}
        else:
            splits = {split: Split(fields) for split, fields in parts.items()}
        kinds = {name: (s.fields["x"].shape[1:], str(s.fields["x"].dtype)) for name, s in splits.items()}
        if kinds["train"] != kinds["test"]:
            raise BadData(f"x_train and x_test do not fit: examples are {kinds['train']} and {kinds['test']}")
        return Data(self.describe(splits["train"]), splits, provenance={"source": "NumPy arrays"})

    def fields(self, split: str, fields: Arrays) -> Arrays:
        """One split's fields as the contract wants them. Raises BadData naming the array at fault."""
        named = {field: f"{field}_{split}" if split else field for field in (*fields, "y")}
        wrong = [named[field] for field, array in fields.items() if len(array) != len(fields["x"])]
        if wrong:
            lengths = ", ".join(f"{named[field]} {len(array)}" for field, array in fields.items())
            raise BadData(f"{wrong[0]} and {named['x']} differ in their number of examples: {lengths}")
        if self.problem == "classification" and "y" not in fields:
            raise BadData(f"{named['y']} is missing: classification needs labels")
        x = fields["x"]
        image = self.modality == "image" or (self.modality == "auto" and x.ndim in (3, 4))
        x = as_images(named["x"], x) if image else x.astype(np.float32).reshape(len(x), *(x.shape[1:] or (1,)))
        done: Arrays = {"x": x}
        for field, values in fields.items():
            if field == "y":
                labels = self.problem == "classification"
                done["y"] = as_labels(named["y"], values) if labels else values.astype(np.float32)
            elif field == "mask" and image:
                done["mask"] = as_mask(named["mask"], values, x)
            elif field != "x":
                done[field] = values.astype(np.int64) if values.dtype.kind in "iu" else values
        return done

    def describe(self, train: Split) -> DataSpec:
        """The description. Features' bounds are the smallest and largest value of the training split."""
        x = train.fields["x"]
        image = x.dtype == np.uint8 or self.modality == "image" or (self.modality == "auto" and x.ndim == 4)
        bounds = (0.0, 1.0) if image else (float(x.min()), float(x.max()))
        classes, outputs = self.classes, 0
        if self.problem == "classification" and not classes:
            most = int(train.fields["y"].max())
            # A class without examples is an error anyway; a stray label must not make a million names.
            if most >= len(train):
                at = int(train.fields["y"].argmax())
                raise BadData(f"label {most} of training example {at} is out of range: there are {len(train)} examples")
            classes = tuple(str(i) for i in range(most + 1))
        elif self.problem != "classification" and "y" in train.fields:
            outputs = int(np.prod(train.fields["y"].shape[1:], dtype=np.int64))
        return DataSpec(
            problem=self.problem,
            modality="image" if image else "features",
            shape=x.shape[1:],
            classes=classes,
            outputs=outputs,
            low=bounds[:1],
            high=bounds[1:],
        )
