"""The cells of `prepare`: a source's version copied into the store, and transforms of a data set."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from assay.plugins import registry
from assay.plugins.contract import AssayError, BadData, Data, DataSpec
from assay.tasks.artifacts import load_data, load_steps, save_data, step_of
from assay.tasks.askable import unfit
from assay.tasks.job import Job, context
from assay.tasks.versions import copy_version, read_dvc, restore, source_meta, track, versions

CHUNK = 4096


def check(data: Data, name: str) -> None:
    """Raises BadData where a data set is not fit to be used: no examples, fields of different lengths,
    values that are not finite, shapes that differ from the spec's, or what its problem refuses."""
    for required in ("train", "test"):
        if required not in data.splits or not len(data.splits[required]):
            raise BadData(f"data set '{name}': split '{required}' is missing or empty")
    for split_name, split in data.splits.items():
        lengths = {key: len(values) for key, values in split.fields.items()}
        if len(set(lengths.values())) != 1:
            raise BadData(f"data set '{name}', split '{split_name}': fields of different lengths: {lengths}")
        x = split.fields["x"]
        if tuple(x.shape[1:]) != tuple(data.spec.shape):
            raise BadData(
                f"data set '{name}', split '{split_name}': examples of shape {x.shape[1:]}, expected {data.spec.shape}"
            )
        for key, values in split.fields.items():
            if values.dtype.kind != "f":
                continue
            for start in range(0, len(values), CHUNK):
                bad = ~np.isfinite(values[start : start + CHUNK])
                if bad.any():
                    at = start + int(np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))[0])
                    raise BadData(
                        f"data set '{name}', split '{split_name}': field '{key}' of example {at} holds NaN or infinity"
                    )
    try:
        registry.make("problems", data.spec.problem).check(data)
    except BadData as error:
        raise BadData(f"data set '{name}': {error}") from error


def read(folder: Path) -> Data:
    """The data set in a folder that people may have changed. Raises BadData."""
    try:
        return load_data(folder)
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise BadData(f"{folder} is no data set as Assay writes it: {error}") from error


def materialise(project: Path, source: Any, downloads: Path) -> str:
    """Makes sure that a source's data are in `data/<name>`, tracked by DVC, and returns the version.

    A fresh clone has the `.dvc` file only: the data come from DVC's cache or remote, else from the source
    again, and must then be the same to the byte. Of several processes one does it, the others wait.
    """
    name = source.dataset or source.method_name()
    (project / ".assay").mkdir(parents=True, exist_ok=True)
    with FileLock(project / ".assay" / f"data-{name}.lock"):
        return _materialise(project, name, source, downloads)


def _materialise(project: Path, name: str, source: Any, downloads: Path) -> str:
    folder = project / "data" / name
    known = versions(project, name)
    if source.rev or (known and folder.is_dir()):
        return known[-1]
    if known and restore(project, name):
        return known[-1]
    write_source(folder, source, downloads)
    found = track(project, name, source_meta(source))
    if known and found != known[-1]:
        raise AssayError(
            f"data set '{name}' was fetched again and is not the version {known[-1][:8]} that data/{name}.dvc names, "
            f"but {found[:8]}: fetch the tracked one from your DVC remote, or commit the new version"
        )
    return found


def write_source(folder: Path, source: Any, downloads: Path) -> None:
    """Loads a source, checks it and writes it as `folder`, whole or not at all."""
    name = folder.name
    ctx = context(0, f"source:{name}", DataSpec(shape=()), torch.device("cpu"), downloads)
    try:
        data: Data = source.load(ctx)
    except BadData as error:
        raise BadData(f"data set '{name}': {error}") from error
    check(data, name)
    temporary = folder.with_name(f".{name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        save_data(temporary, data)
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def source(job: Job) -> None:
    """Copies the version of a data set that the cell names into the store, and checks it."""
    name, digest = job.spec["dataset"], job.spec["digest"]
    copy_version(Path(job.spec["project"]), name, digest, job.out)
    check(load_data(job.out), name)


def transform(job: Job) -> None:
    """Fits a transform on its parent's training split and writes the changed data set, with its record
    among those that new data must pass where the transform says so."""
    parent = load_data(job.inputs["data"])
    method = job.method()
    reason = unfit(method, parent.spec.modality)
    if reason:
        raise BadData(reason)
    ctx = job.context(parent.spec, method.method_name())
    record = method.fit(parent, ctx, lab=job.lab) if job.lab is not None else method.fit(parent, ctx)
    data = method.apply(parent, record)
    check(data, f"after {method.method_name()}")
    passed = load_steps(job.inputs["data"] / "preprocessing")
    if method.card.serves:
        passed.append(step_of(method, record, parent.spec))
    save_data(job.out, data, passed)


def describe(project: Path, name: str) -> dict[str, Any]:
    """What `assay data list` shows of a data set."""
    folder = project / "data" / name
    known = versions(project, name)
    row: dict[str, Any] = {
        "name": name,
        "versions": known,
        "source": (read_dvc(project, name) or {}).get("meta", {}).get("source"),
    }
    if not folder.is_dir():
        return row
    try:
        data = read(folder)
    except BadData:
        return {**row, "problem": "not readable"}
    return {
        **row,
        "problem": data.spec.problem,
        "shape": list(data.spec.shape),
        "classes": len(data.spec.classes),
        "sizes": {k: len(v) for k, v in data.splits.items()},
    }
