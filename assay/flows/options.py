"""What the commands of the command line share."""

from __future__ import annotations

import gc
import importlib
from pathlib import Path
from typing import Annotated, Any

import typer

ParamsOption = Annotated[Path, typer.Option("--params", "-p", help="The params file.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", "-s", help="Override one value: a.b=c. May be repeated.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ServerOption = Annotated[bool, typer.Option("--server/--no-server", help="Run as a Prefect flow.")]
PoolOption = Annotated[str, typer.Option("--pool", help="Have the workers of this Prefect work pool compute.")]
RunnerOption = Annotated[str, typer.Option("--runner", help="local, or dask: a cluster computes.")]
PARAMS = Path("params.yaml")


def commands(name: str) -> Any:
    """A module of `assay.flows.commands`, imported when a command needs it."""
    gc.disable()  # nothing that is imported is garbage; to look for it would take a quarter of a second
    try:
        return importlib.import_module(f"assay.flows.commands.{name}")
    finally:
        gc.enable()
