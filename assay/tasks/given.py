"""Weights that a user brings (`train.from`): what they are when planning, and the cell that makes a model of them."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from assay.plugins.contract import BadInput, DataSpec
from assay.tasks import cells as c
from assay.tasks.artifacts import Step, load_data, load_steps, save_model
from assay.tasks.cells import Cell, Env, Ref
from assay.tasks.job import Job
from assay.tasks.training import Recipe, initial_model

SUFFIX = ".safetensors"
PICKLED = "pytorch_model.bin"
"""What transformers called the weights of a folder before."""
PARTS = ("model", "edit", "learner", "problem")
"""What of a recipe a model that is not trained depends on."""
MEMORY = ".assay/cache/weights.json"
CHUNK = 2**22
CONVERT = """it may hold pickled code, which runs when it is loaded. Convert it once, where you trust it:
    import torch
    from safetensors.torch import save_file
    state = torch.load({name!r}, map_location="cpu", weights_only=True)
    state = state.get("state_dict", state)  # a file of weights alone, or one that has them under this name
    save_file({{k: v.contiguous().clone() for k, v in state.items()}}, {new!r})
then write `from: {new}`"""


def weights_file(project: Path, key: str, start: str) -> Path:
    """The safetensors file that `train.from` names, relative to the project; of a folder its `model.safetensors`.

    Raises BadInput where there is none, or it is of another kind.
    """
    path = (project / Path(start).expanduser()).resolve()
    if path.is_dir():
        pickled = path / PICKLED
        path = path / f"model{SUFFIX}"
        path = pickled if pickled.is_file() and not path.is_file() else path
    if not path.is_file():
        raise BadInput(
            f"{key}.from: there is no file {path}: name a {SUFFIX} file, relative to the project's folder, or "
            f"one of `trainings`"
        )
    with open(path, "rb") as file:
        head = file.read(9)
    if head[:4] == b"PK\x03\x04" or head[:1] == b"\x80" or path.suffix in (".pt", ".pth", ".bin", ".ckpt", ".pkl"):
        shown = os.path.relpath(path, project)
        text = CONVERT.format(name=shown, new=str(Path(shown).with_suffix(SUFFIX)))
        raise BadInput(f"{key}.from: {start} is a pickled checkpoint and is not loaded: {text}")
    if len(head) < 9 or head[8:] != b"{" or int.from_bytes(head[:8], "little") > path.stat().st_size:
        raise BadInput(f"{key}.from: {start} is no {SUFFIX} file: save the state dict with safetensors.torch.save_file")
    return path


def file_digest(project: Path, path: Path) -> str:
    """A file's sha256: from a memory by size, time and inode, else by reading it."""
    stat = path.stat()
    mark = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
    memory = project / MEMORY
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
        if known[str(path)][0] == mark:
            return str(known[str(path)][1])
    except (OSError, ValueError, KeyError, TypeError):
        known = {}
    found = sha256(path)
    memory.parent.mkdir(parents=True, exist_ok=True)
    temporary = memory.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps({**known, str(path): [mark, found]}), encoding="utf-8")
    os.replace(temporary, memory)
    return found


def sha256(path: Path) -> str:
    """A file's sha256."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def given_cell(label: str, key: str, recipe: Mapping[str, Any], path: Path, seed: int, data: Ref, env: Env) -> Cell:
    """The cell that makes a model of a file's weights. Where the file lies is not in its key, what it says is."""
    spec = {
        "recipe": {part: recipe[part] for part in PARTS},
        "seed": seed,
        "sha256": file_digest(Path(env.project), path),
    }
    cell = c.make("train", "train", label, "assay.tasks.given:weights", spec, {"data": data}, env)
    return replace(cell, spec={**spec, "path": str(path), "as": f"{key}.from"})


def weights(job: Job) -> None:
    """Builds the recipe's model, loads the given weights into it, and writes it as a model artifact without
    history or checkpoints. Raises BadInput where they do not fit."""
    path, key = Path(job.spec["path"]), job.spec["as"]
    if not path.is_file() or sha256(path) != job.spec["sha256"]:
        raise BadInput(f"{key}: {path} changed since the run was planned: run it again")
    recipe, data = Recipe(job.spec["recipe"]), load_data(job.inputs["data"])
    model, card = initial_model(data, recipe, int(job.spec["seed"]), job.inputs["data"])
    try:
        raw = load_file(path)
    except SafetensorError as error:
        raise BadInput(f"{key}: {path} is damaged: {error}") from error
    given = dict(recipe.one("model").weights(raw, data.spec))
    check_preprocessing(key, path, data.spec, load_steps(job.inputs["data"] / "preprocessing"))
    faults = misfits(model, given)
    if faults:
        outputs = f"the data set has {data.spec.n_outputs} outputs" + (
            f" (classes {', '.join(data.spec.classes[:5])}{', …' if len(data.spec.classes) > 5 else ''})"
            if data.spec.classes
            else ""
        )
        shown = "\n".join(f"  {line}" for line in faults[:8])
        more = f"\n  … and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise BadInput(
            f"{key}: {path.name} does not fit the model:\n{shown}{more}\n"
            f"give the `train.model` (and `arguments`) that these weights were trained with; {outputs}"
        )
    model.load_state_dict(given, strict=False)  # what is missing shares its memory with what is there
    save_model(job.out, card, model.state_dict())
    (job.out / "history.csv").write_text("epoch\n", encoding="utf-8")


def check_preprocessing(key: str, path: Path, spec: DataSpec, steps: Sequence[Step]) -> None:
    """Raises BadInput where nothing says how the inputs of given weights were normalised: a model would be asked of
    others than it was trained on, and nobody would notice."""
    if spec.modality not in ("image", "features") or any("normalised" in s.method().card.gives for s in steps):
        return
    raise BadInput(
        f"{key}: nothing says how the inputs of {path.name} were normalised: add transform/normalize to `prepare`, "
        f"with the mean and std of its training. Where it took them as they are, write {{name: transform/normalize, "
        f"mean: [0], std: [1]}}, one number a channel ({spec.shape[0]})"
    )


def misfits(model: nn.Module, given: Mapping[str, Tensor]) -> list[str]:
    """What keeps tensors from being a model's state, one line each: missing, unexpected (each with a close match),
    of another shape, not finite. A tensor that shares its memory with one that is there is not missing."""
    wanted = model.state_dict()
    there = {value.data_ptr() for name, value in wanted.items() if name in given}
    missing = [n for n, value in wanted.items() if n not in given and value.data_ptr() not in there]
    unexpected = [name for name in given if name not in wanted]
    lines = [f"missing: {n} {_shape(wanted[n])}{_like(n, unexpected, 'it has')}" for n in missing]
    lines += [f"unexpected: {n} {_shape(given[n])}{_like(n, missing, 'the model has')}" for n in unexpected]
    for name in [n for n in wanted if n in given]:
        if wanted[name].shape != given[name].shape:
            lines.append(f"shape: {name} is {_shape(given[name])}, the model has {_shape(wanted[name])}")
        elif given[name].is_floating_point() and not torch.isfinite(given[name]).all():
            lines.append(f"values: {name} holds NaN or infinity")
    return lines


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def _like(name: str, others: Sequence[str], has: str) -> str:
    close = difflib.get_close_matches(name, others, n=1, cutoff=0.5)
    return f" ({has} {close[0]})" if close else ""
