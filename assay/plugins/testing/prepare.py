"""What sources, transforms and problems promise."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from assay.plugins.contract import BadData, BadInput, Context, Data, NotAuditable, Record, Split
from assay.plugins.testing.base import Case, Failed, Skipped, context, demand, promise, takes_lab, twice
from assay.plugins.testing.given import TinyLab
from assay.plugins.testing.watch import same, stored_record, untouched
from assay.plugins.testing.worlds import World, frozen, gray_images, makers, worlds

DOWNLOADS = "ASSAY_DOWNLOADS"


class Offline(Context):
    """A context for a source: whoever asks it for the folder of downloads means to download, which the
    suite does only into the folder that the environment names."""

    def __getattribute__(self, name: str) -> Any:
        if name != "folder":
            return super().__getattribute__(name)
        folder = os.environ.get(DOWNLOADS)
        if not folder:
            raise Skipped(f"it downloads: set {DOWNLOADS} to a folder that holds its files")
        return Path(folder)


def sound_data(data: Any) -> None:
    """Raises Failed where a data set is not as its spec says."""
    demand(isinstance(data, Data), f"it returns a {type(data).__name__}, not a Data")
    demand(data.splits, "the data have no splits")
    for name, split in data.splits.items():
        x = split.fields["x"]
        kinds = (np.int64,) if data.spec.modality == "tokens" else (np.uint8, np.float32)
        demand(x.dtype in kinds, f"x of split '{name}' is {x.dtype}, not one of {[k.__name__ for k in kinds]}")
        demand(x.shape[1:] == data.spec.shape, f"x of split '{name}' is {x.shape[1:]}, its spec {data.spec.shape}")
        lengths = {key: len(values) for key, values in split.fields.items()}
        demand(len(set(lengths.values())) == 1, f"fields of split '{name}' have different lengths: {lengths}")
        for key, values in split.fields.items():
            if values.dtype.kind == "f":
                demand(np.isfinite(values).all(), f"field '{key}' of split '{name}' holds NaN or infinity")
    if data.spec.classes and "y" in data.train.fields:
        y = data.train.fields["y"]
        demand(y.min() >= 0 and y.max() < len(data.spec.classes), "labels are out of the range of the classes")


@promise("prepare/source")
def load(case: Case) -> None:
    """What it loads is as its spec says, has a training and a test split, and is the same each time.
    Asked of sources that need neither a download nor a file of the user's."""

    def fetch() -> Data:
        empty = context(gray_images().data.spec)
        data: Data = case.method.load(Offline(rng=empty.rng, spec=empty.spec))
        return data

    try:
        first, second = twice(fetch)
    except BadInput as error:
        raise Skipped(f"it needs the user's own files: {error}") from error
    sound_data(first)
    demand({"train", "test"} <= set(first.splits), f"it has splits {sorted(first.splits)}: train and test are needed")
    same(first, second, "loaded twice")


def fit(case: Case, world: World) -> Record:
    """The record of a transform on a world's data."""
    more = {"lab": TinyLab(world)} if takes_lab(case.method.fit) else {}
    record: Record = case.method.fit(world.data, context(world.data.spec), **more)
    return record


def transformed(case: Case) -> Iterator[tuple[World, Record]]:
    """The worlds that a transform can be asked of, with its record; Skipped where there is none."""
    asked, reasons = False, []
    for world in worlds(case):
        try:
            record = fit(case, world)
        except BadInput as error:
            reasons.append(str(error))
            continue
        asked = True
        yield world, record
    if not asked:
        raise Skipped("; ".join(reasons))


@promise("prepare/transform")
def apply(case: Case) -> None:
    """The changed data are as their spec says; `fit` and `apply` change nothing that they are given,
    read-only arrays included."""
    for world, _ in transformed(case):
        with untouched(data=world.data):
            record = fit(case, world)
            result = case.method.apply(world.data, record)
        sound_data(result)
        new = set(result.splits) - set(case.cls.card.gives)
        demand(new == set(world.data.splits), f"splits became {sorted(result.splits)}")


@promise("prepare/transform")
def determinism(case: Case) -> None:
    """The same seed gives the same record and data, whatever the global generators hold."""
    for world, _ in transformed(case):
        same(*twice(partial(fit, case, world)), "two records of one seed")
        record = fit(case, world)
        same(*twice(partial(case.method.apply, world.data, record)), "applied twice")


@promise("prepare/transform")
def record(case: Case) -> None:
    """The record goes through JSON and safetensors, and then changes the data in the same way."""
    for world, made in transformed(case):
        again = stored_record(made)
        demand(made.weights is None, "a transform's record has no weights")
        same(case.method.apply(world.data, made), case.method.apply(world.data, again), "from the stored record")


@promise("prepare/transform")
def serving(case: Case) -> None:
    """A transform that new data must pass (`serves`) works on a split `new` of inputs alone, as it does
    on the same inputs among others."""
    if not case.cls.card.serves:
        return
    for world, made in transformed(case):
        x = world.data.test.fields["x"]
        alone = world.data.replace(splits={"new": frozen(Split({"x": x[:5].copy()}))})
        first = case.method.apply(alone, stored_record(made)).splits["new"].fields["x"]
        whole = case.method.apply(world.data, made).test.fields["x"][:5]
        demand(first.shape == whole.shape, f"new inputs became {first.shape}, among others {whole.shape}")
        demand(np.allclose(first, whole, atol=1e-5), "new inputs are changed otherwise than the same ones in the data")


# problems


def its_worlds(case: Case) -> list[World]:
    """The worlds of the problem that is itself under test."""
    found = makers().get(case.entry.file.stem)
    if not found:
        raise Skipped("the suite has no data of this problem")
    return [make() for make in found]


def without(field: str, name: str, split: Split) -> Split:
    """The split without one field."""
    return Split({k: v for k, v in split.fields.items() if k != field})


@promise("problems")
def fields(case: Case) -> None:
    """It accepts data of its kind, and refuses with BadData those that lack one of its fields."""
    for world in its_worlds(case):
        case.method.check(world.data)
        for missing in set(case.cls.fields) - {"x"}:
            lacking = world.data.map(partial(without, missing))
            try:
                case.method.check(lacking)
            except BadData as error:
                demand(str(error).strip(), "the refusal says nothing")
                continue
            raise Failed(f"data without field '{missing}' were not refused")


@promise("problems")
def predictions(case: Case) -> None:
    """Scores and errors are one number an example, targets a row, scores have gradients, chance is finite. A
    problem whose predictions are draws may say why errors and chance mean nothing."""
    for world in its_worlds(case):
        batch = world.images()
        prediction = world.model()(batch.x).detach().requires_grad_()
        target = case.method.target(prediction)
        scores = case.method.score(prediction, target)
        with meaningless(case):
            errors = case.method.error(prediction, batch)
            demand(errors.shape == (batch.size,), f"`error` gives {tuple(errors.shape)}, not ({batch.size},)")
            demand(torch.isfinite(errors.double()).all(), "`error` is not finite")
            demand((errors >= 0).all(), "an error is negative")
        with meaningless(case):
            demand(np.isfinite(case.method.chance(world.data)), "chance is not finite")
        demand(len(target) == batch.size, f"`target` gives {tuple(target.shape)}: one row an example is needed")
        demand(case.method.same(target, target).all(), "a target is not the `same` as itself")
        demand(scores.shape == (batch.size,), f"`score` gives {tuple(scores.shape)}, not ({batch.size},)")
        demand(torch.isfinite(scores.double()).all(), "`score` is not finite")
        gradient = torch.autograd.grad(scores.sum(), prediction)[0]
        demand(torch.isfinite(gradient).all(), "the score's gradient is not finite")


@contextlib.contextmanager
def meaningless(case: Case) -> Iterator[None]:
    """Lets a problem of draws say that a question has no meaning for it. Raises Failed where another does."""
    try:
        yield
    except NotAuditable as error:
        demand(case.cls.samples, f"its predictions are no draws, and it says: {error}")
        demand(str(error).strip(), "NotAuditable without a reason")
