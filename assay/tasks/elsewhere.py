"""Cells that were planned on another machine: computed here only where this machine would plan the same."""

from __future__ import annotations

import platform
from pathlib import Path

from assay.plugins import registry
from assay.plugins.values import AssayError
from assay.tasks.cells import Cell, Env, make
from assay.tasks.closure import module_file
from assay.tasks.status import differences

SOURCE = "prepare/source"
FILES = ("assay.tasks.given:weights", "assay.tasks.started:model")
"""The tasks that read a file of the user's, or one that was brought to this machine."""
FIX = "give this machine the code and the versions of the one that planned the run"


class Refused(AssayError):
    """A cell whose answer would be another here."""


def stays(cell: Cell) -> bool:
    """Whether a cell belongs to the machine that planned it: it reads files that are there, or measures it."""
    return cell.slot == SOURCE or cell.exclusive or cell.task in FILES


def adopt(cell: Cell, project: Path) -> Cell:
    """The cell as this machine plans it, in its own folder of the project. Raises Refused, naming what differs,
    where its key is another here: its answer would be found under a key that it does not belong to."""
    import torch

    host = platform.node() or "this machine"
    if stays(cell):
        raise Refused(f"{host} refuses '{cell.label}': it belongs to the machine that planned it")
    if cell.env.device == "cuda" and not torch.cuda.is_available():
        raise Refused(f"{host} refuses '{cell.label}': it was planned for cuda, and there is none here")
    env = Env(cell.env.device, cell.env.threads, str(project))
    try:
        mine = make(cell.stage, cell.slot, cell.label, cell.task, cell.spec, cell.inputs, env, cell.group)
    except registry.UnknownMethod as error:
        raise Refused(f"{host} refuses '{cell.label}': {error}") from error
    if mine.key != cell.key:
        raise Refused(f"{host} refuses '{cell.label}': {_difference(cell, mine, project)}: {FIX}")
    return mine


def _difference(cell: Cell, mine: Cell, project: Path) -> str:
    """What is another here, in words; of code, the files."""
    words = list(differences(cell.ingredients, mine.ingredients))
    changed = [name for name, digest in mine.ingredients.items() if cell.ingredients.get(name) != digest]
    files = [module_file(name.removeprefix("code."), project) for name in changed if name.startswith("code.")]
    here = f" ({', '.join(str(file) for file in files[:4])})" if files else ""
    return f"{'; '.join(words[:4]) or 'its key is another here'}{here}"
