"""A data set of the library datasets."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

import datasets
import numpy as np
from pydantic import model_validator

from assay.plugins.contract import AssayError, BadData, BadInput, Card, Context, Data, DataSpec, Field, Source, Split
from assay.plugins.prepare.source._common import held_out
from assay.plugins.prepare.source._images import read_images

READERS = ("Parquet", "Arrow", "Csv", "Json", "ImageFolder")
"""The library's readers that are used: of tables and images. None of them runs code that comes with the data."""
UNLABELLED = -1

Splits = dict[str, Any]
Fields = dict[str, np.ndarray]


def tables(path: str, subset: str, revision: str, cache: Path) -> Splits:
    """The data set's splits, by name: of a folder that `save_to_disk` wrote, a folder of Parquet, Arrow, CSV or JSON
    files, or a hub id. Raises BadData where a folder holds no such thing, AssayError where the hub does not answer."""
    folder = Path(path).expanduser()
    try:
        if (folder / "dataset_dict.json").is_file():
            return dict(datasets.load_from_disk(str(folder)))
        if (folder / "state.json").is_file():
            return {"train": datasets.load_from_disk(str(folder))}
        where = str(folder) if folder.is_dir() else path
        builder = datasets.load_dataset_builder(where, subset or None, revision=revision or None, cache_dir=str(cache))
        if not any(base.__name__ in READERS for base in type(builder).__mro__):
            raise BadData(
                f"'{path}' is stored as {type(builder).__mro__[1].__name__}: Parquet, Arrow, CSV, JSON or image files "
                f"are read; `load_dataset(…).save_to_disk(FOLDER)` makes such a folder of any"
            )
        builder.download_and_prepare()
        return dict(builder.as_dataset())
    except ConnectionError as error:
        raise AssayError(
            f"'{path}' is no folder here, and the hub does not answer ({error}): check id and revision, or connect to "
            f"the network. Or on a machine that has one: datasets.load_dataset({path!r}, revision={revision!r})"
            f".save_to_disk('FOLDER'), bring the folder here, and give it as `path`"
        ) from error
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        raise BadData(f"'{path}' cannot be read by the library datasets: {error}") from error


def image_files(column: Any, name: str) -> list[tuple[str, Path | BinaryIO]]:
    """A column's image files, each with what it is called: the bytes that are stored, or files on this machine.

    Raises BadData where an example has neither.
    """
    found: list[tuple[str, Path | BinaryIO]] = []
    for i, row in enumerate(column.cast_column(name, datasets.Image(decode=False)).select_columns([name])):
        stored = row[name] or {}
        called = f"example {i}" + (f" ({stored['path']})" if stored.get("path") else "")
        if stored.get("bytes"):
            found.append((called, io.BytesIO(stored["bytes"])))
        elif stored.get("path") and Path(stored["path"]).is_file():
            found.append((called, Path(stored["path"])))
        else:
            raise BadData(f"column '{name}', {called}: the image is neither stored nor a file on this machine")
    return found


class HuggingfaceData(Source):
    """A data set of the library datasets, from a folder (`save_to_disk`, Parquet, CSV, JSON) or the hub: images,
    numeric columns, or tokens, and a column of labels.

    The classes' names are those of a ClassLabel column, else its values. Text must be tokens already, as many in each
    example: map your model's tokenizer over it with padding or in blocks, and `save_to_disk`.
    """

    card = Card(title="Data sets of the library datasets", extra="huggingface", library="datasets")
    path: str = Field("", description="the folder, or the id on the hub; empty where the data set was added before")
    revision: str = Field("", description="commit, tag or branch of a data set on the hub")
    subset: str = Field("", description="name of a configuration, where it has several")
    image: str = Field("", description="column of images; the only one where empty")
    features: tuple[str, ...] = Field((), description="columns of numbers, in place of images")
    tokens: str = Field("", description="column of lists of token numbers, in place of images")
    label: str = Field("", description="column of classes; the only ClassLabel, or `label`, where empty")
    problem: Literal["classification", "sequence"] = Field(
        "classification", description="sequence: each token's next one is to be predicted; needs `tokens`"
    )
    vocabulary: int = Field(0, ge=0, description="how many tokens there are; 0: up to the largest one")
    train: str = Field("train", min_length=1, description="the split to learn")
    test: str = Field("test", description="the split to judge by; a share of `train` is held out where there is none")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="that share")
    seed: int = Field(0, ge=0, description="seed of that draw")
    size: int = Field(0, ge=0, le=4096, description="resize images to size x size pixels; 0 keeps their, equal, size")
    grayscale: bool = Field(False, description="one channel in place of three")

    @model_validator(mode="after")
    def _one_input(self) -> HuggingfaceData:
        given = [name for name in ("image", "features", "tokens") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given: an example is one of image, features, tokens")
        if self.problem == "sequence" and not self.tokens:
            raise ValueError("problem: 'sequence' needs `tokens`, the column of token numbers")
        return self

    def becomes(self) -> str:
        """What it was asked for."""
        return self.problem

    def load(self, ctx: Context) -> Data:
        """uint8 images (N, C, H, W), float32 features (N, F) or int64 tokens (N, T), and int64 labels.

        Raises BadInput and BadData naming split, column and example; AssayError where the hub does not answer.
        """
        if not self.path:
            raise BadInput(f"data set '{self.dataset or 'huggingface'}' was never added: give `path`")
        local = Path(self.path).expanduser()
        if local.is_file():
            raise BadData(f"'{self.path}' is a file: give the folder that holds it")
        if not local.is_dir() and not self.revision:
            raise BadData(
                f"there is no folder '{self.path}'; of a data set on the hub give the id as `path`, and as `revision` "
                f"the commit, tag or branch"
            )
        datasets.disable_progress_bars()
        if local.is_dir():
            with tempfile.TemporaryDirectory() as cache:
                return self.data(tables(self.path, self.subset, "", Path(cache)))
        assert ctx.folder is not None
        return self.data(tables(self.path, self.subset, self.revision, ctx.folder / "huggingface"))

    def data(self, found: Splits) -> Data:
        """The data set of the library's splits."""
        if self.train not in found:
            raise BadData(f"there is no split '{self.train}' to learn; it has {', '.join(found)}: give `train`")
        names = {"train": self.train, "test": self.test, "validation": "validation"}
        if self.test == "validation":
            del names["validation"]
        parts = {split: found[name] for split, name in names.items() if name in found}
        if self.test not in (*found, "test", ""):
            raise BadData(f"there is no split '{self.test}' to judge by; it has {', '.join(found)}: give `test`")
        label = self.label_of(parts["train"])
        classes = self.classes(parts["train"], label) if self.problem == "classification" else ()
        splits = {split: Split(self.fields(split, part, label, classes)) for split, part in parts.items()}
        if "test" not in splits:
            whole = splits["train"]
            groups = whole.fields["y"] if classes else np.zeros(len(whole), dtype=np.int64)
            test = held_out(groups, self.test_fraction, self.seed)
            splits = {**splits, "train": whole.take(np.flatnonzero(~test)), "test": whole.take(np.flatnonzero(test))}
        provenance = {"source": "datasets", "path": self.path, "revision": self.revision}
        return Data(self.describe(splits, classes), splits, provenance=provenance)

    # labels

    def label_of(self, part: Any) -> str:
        """The column of classes, '' where none is needed. Raises BadData where it is not clear which."""
        if self.problem == "sequence":
            return ""
        known = list(part.features)
        labels = [name for name, kind in part.features.items() if isinstance(kind, datasets.ClassLabel)]
        found = self.label or (labels[0] if len(labels) == 1 else "label" if "label" in known else "")
        if found not in known:
            what = f"'{self.label}'" if self.label else "that is clearly the classes"
            raise BadData(f"there is no column {what}; it has {', '.join(known)}: give `label`")
        return str(found)

    def classes(self, part: Any, label: str) -> tuple[str, ...]:
        """The classes' names in order: a ClassLabel's own, else the column's values, sorted."""
        kind = part.features[label]
        if isinstance(kind, datasets.ClassLabel):
            return tuple(kind.names)
        values = {value for value in part[label] if value is not None}
        if not all(isinstance(value, bool | int | str) for value in values):
            raise BadData(f"column '{label}' is no column of classes: it is {kind}")
        return tuple(str(value) for value in sorted(values))

    def labels(self, split: str, part: Any, label: str, classes: tuple[str, ...]) -> np.ndarray:
        """int64 class numbers (N,). Raises BadData naming the first example without a class."""
        values = part[label]
        if isinstance(part.features[label], datasets.ClassLabel):
            numbers = [UNLABELLED if value is None else int(value) for value in values]
        else:
            at = {name: i for i, name in enumerate(classes)}
            numbers = [at.get(str(value), UNLABELLED) for value in values]
        wrong = [i for i, number in enumerate(numbers) if number < 0]
        if wrong:
            hint = "" if split == "train" else f": name another split (`{split}: validation`), or hold out (`test: ''`)"
            raise BadData(
                f"split '{split}', example {wrong[0]}: column '{label}' holds {values[wrong[0]]!r}, no class of the "
                f"training split ({len(wrong)} such examples){hint}"
            )
        return np.array(numbers, dtype=np.int64)

    # inputs

    def fields(self, split: str, part: Any, label: str, classes: tuple[str, ...]) -> Fields:
        """One split's arrays. Raises BadData."""
        x = self.token_rows(split, part) if self.tokens else self.numbers(split, part) if self.features else None
        if x is not None and self.problem == "sequence":
            return {"x": x[:, :-1].copy(), "y": x[:, 1:].copy()}
        return {"x": self.images(part) if x is None else x, "y": self.labels(split, part, label, classes)}

    def images(self, part: Any) -> np.ndarray:
        """uint8 images (N, C, H, W)."""
        known = [name for name, kind in part.features.items() if isinstance(kind, datasets.Image)]
        name = self.image or (known[0] if len(known) == 1 else "")
        if name not in known:
            what = (
                f"'{self.image}' is no column of images" if self.image else "it is not clear which column is the input"
            )
            shown = ", ".join(f"{column} ({type(kind).__name__})" for column, kind in part.features.items())
            raise BadData(f"{what}; it has {shown}: give `image`, `features` or `tokens`")
        return read_images(image_files(part, name), self.size, "L" if self.grayscale else "RGB")

    def numbers(self, split: str, part: Any) -> np.ndarray:
        """float32 features (N, F), a column each. Raises BadData where a column is missing or holds no numbers."""
        columns = []
        for name in self.features:
            self._demand(name, part)
            try:
                columns.append(np.asarray(part[name][:], dtype=np.float32))
            except (TypeError, ValueError) as error:
                raise BadData(f"split '{split}', column '{name}' does not hold numbers: {error}") from error
            if columns[-1].ndim != 1:
                raise BadData(f"split '{split}', column '{name}' holds lists: a feature is one number an example")
        return np.stack(columns, axis=1)

    def token_rows(self, split: str, part: Any) -> np.ndarray:
        """int64 tokens (N, T). Raises BadData where examples are no whole numbers, or of different lengths."""
        self._demand(self.tokens, part)
        rows = part[self.tokens][:]
        lengths = {len(row) if isinstance(row, list) else 0 for row in rows}
        if len(lengths) != 1 or lengths <= ({0, 1} if self.problem == "sequence" else {0}):
            shown = f"between {min(lengths)} and {max(lengths)}"
            raise BadData(
                f"split '{split}', column '{self.tokens}': examples of {shown} tokens; give all the same number (pad "
                f"with the tokenizer, or cut into blocks)"
            )
        x = np.asarray(rows)
        if x.dtype.kind not in "iu" or x.min() < 0:
            raise BadData(f"split '{split}', column '{self.tokens}' must hold whole numbers from 0 on")
        return x.astype(np.int64)

    def _demand(self, name: str, part: Any) -> None:
        if name not in part.features:
            raise BadData(f"there is no column '{name}'; it has {', '.join(part.features)}")

    def describe(self, splits: Mapping[str, Split], classes: tuple[str, ...]) -> DataSpec:
        """The description; features' bounds are those of the training split."""
        x = splits["train"].fields["x"]
        if self.tokens:
            fields = ("x", "y") if self.problem == "sequence" else ("x",)
            largest = max(int(split.fields[name].max()) for split in splits.values() for name in fields)
            if self.vocabulary and largest >= self.vocabulary:
                raise BadData(f"column '{self.tokens}' holds token {largest}, and `vocabulary` is {self.vocabulary}")
            count = self.vocabulary or largest + 1
            names = classes or tuple(str(i) for i in range(count))
            return DataSpec(
                problem=self.problem, modality="tokens", shape=x.shape[1:], classes=names, high=(count - 1.0,)
            )
        if self.features:
            low, high = (tuple(float(v) for v in edge) for edge in (x.min(0), x.max(0)))
            return DataSpec(modality="features", shape=x.shape[1:], classes=classes, low=low, high=high)
        return DataSpec(shape=x.shape[1:], classes=classes)
