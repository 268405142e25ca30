"""Assay: train, compress, audit whether attributions stay faithful, evaluate."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["BadInput", "__version__", "run", "sweep"]


def __getattr__(name: str) -> Any:
    if name == "BadInput":  # imported when asked for: it brings torch
        return importlib.import_module("assay.plugins.values").BadInput
    raise AttributeError(f"module 'assay' has no attribute {name!r}")


def run(params: Any = "params.yaml", **options: Any) -> Any:
    """Runs the pipeline: the same as `assay run`. See `assay.flows.api.run` for the arguments.

    Imported by name when called, so that `import assay` stays light and no cell's code depends on it.
    """
    return importlib.import_module("assay.flows.api").run(params, **options)


def sweep(points: Any, params: Any = "params.yaml", **options: Any) -> Any:
    """Runs the pipeline on many points: the same as `assay sweep`. See `assay.flows.sweep.run_sweep`."""
    return importlib.import_module("assay.flows.sweep").run_sweep(points, params, **options)
