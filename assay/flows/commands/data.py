"""data add, list, status."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from assay.flows.commands.runs import print_json, screen_out
from assay.plugins import registry
from assay.plugins.values import BadInput
from assay.tasks import data as d
from assay.tasks import settings, versions
from assay.tasks.params import NAME
from assay.tasks.reading import read_yaml


def data_add(name: str, origin: str, overrides: Sequence[str]) -> None:
    """Makes `data/<name>` from a source, a folder or an array file (or takes it as it is) and tracks it."""
    import re

    if not re.match(NAME, name):
        raise BadInput(f"{name!r} is no data set name: letters, digits, '-' and '_'")
    project = Path.cwd()
    settings.apply(project)
    console = Console(stderr=True)
    before = versions.versions(project, name)
    meta = None
    if origin:
        source = source_for(origin, overrides)
        downloads = Path(os.environ.get("ASSAY_DOWNLOADS") or project / ".assay" / "downloads")
        d.write_source(project / "data" / name, source, downloads)
        meta = versions.source_meta(source)
    elif not (project / "data" / name).is_dir():
        raise BadInput(f"data/{name} is not there: name where it comes from, as `assay data add {name} photos/`")
    else:
        d.check(d.read(project / "data" / name), name)
    found = versions.track(project, name, meta)
    console.print(f"data/{name} is version {found[:8]}{' (as before)' if found in before else ''}", highlight=False)
    if meta is not None:
        console.print(f"use it: prepare: [{usage(source, name)}]", highlight=False, markup=False, soft_wrap=True)


def usage(source: Any, name: str) -> str:
    """The entry of params.yaml for a data set that a source made."""
    given = source.model_dump(mode="json", exclude_defaults=True, exclude={"path", "dataset", "rev"})
    fields = {"name": f"source/{source.method_name()}", "dataset": name, **given}
    return str(yaml.safe_dump(fields, default_flow_style=True, sort_keys=False, width=10_000)).strip()


def source_for(origin: str, overrides: Sequence[str]) -> Any:
    """The source that an origin means: a source's name, or the one that reads such a path."""
    fields: dict[str, Any] = {}
    for override in overrides:
        key, sign, text = override.partition("=")
        if not sign:
            raise BadInput(f"--set {override!r}: it must read field=value")
        fields[key.strip()] = read_yaml(text, f"--set {key}")
    if origin.startswith("source/"):
        return _source({"name": origin, **fields})
    path = Path(origin)
    if not path.exists():
        raise BadInput(f"{origin}: no such file or folder, and no source (those begin with source/)")
    arrays = path.suffix in (".npz", ".npy") or any(path.glob("*.npy"))
    saved = any((path / file).is_file() for file in ("dataset_dict.json", "state.json")) or any(path.rglob("*.parquet"))
    name = "source/arrays" if arrays else "source/huggingface" if saved else "source/image_folder"
    return _source({"name": name, "path": origin, **fields})


def _source(entry: dict[str, Any]) -> Any:
    try:
        return registry.make("prepare", entry, "data add")
    except ValueError as error:
        raise BadInput(str(error)) from error


def _names(project: Path) -> list[str]:
    return sorted(path.stem for path in (project / "data").glob("*.dvc"))


def data_list(as_json: bool) -> None:
    """Lists the tracked data sets."""
    project = Path.cwd()
    rows = [d.describe(project, name) for name in _names(project)]
    if as_json:
        print_json(rows)
        return
    shown = Table("data set", "problem", "shape", "classes", "examples", "versions (newest last)", box=None)
    for row in rows:
        sizes = ", ".join(f"{k} {v:,}" for k, v in row.get("sizes", {}).items())
        shape = "×".join(str(n) for n in row.get("shape", []))
        marks = " ".join(v[:8] for v in row["versions"])
        shown.add_row(row["name"], row.get("problem", "not here"), shape, str(row.get("classes", "")), sizes, marks)
    screen_out().print(shown if rows else "no data sets yet: `assay run` or `assay data add` brings them in")


def data_status(as_json: bool) -> int:
    """Says of each data set whether it is as it was added; 1 where one is not."""
    project = Path.cwd()
    rows = []
    for name in _names(project):
        known = versions.versions(project, name)
        if not (project / "data" / name).is_dir():
            state = "not here; a run fetches it"
        elif versions.folder_hash(project, name) == known[-1]:
            state = "as added"
        else:
            state = "changed since it was added"
        rows.append({"name": name, "version": known[-1], "state": state})
    if as_json:
        print_json(rows)
    if not rows and not as_json:
        print("no data sets yet: `assay run` or `assay data add` brings them in")
    for row in [] if as_json else rows:
        Console().print(f"{row['name']}  {row['version'][:8]}  {row['state']}", highlight=False)
    return 1 if any(row["state"].startswith("changed") for row in rows) else 0
