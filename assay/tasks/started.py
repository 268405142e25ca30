"""The cell that starts a run from a model artifact of another run: the same architecture, edits, links and weights,
for data that are what the model was made for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from assay.plugins.contract import BadInput, Data, DataSpec, Split
from assay.tasks import cells as c
from assay.tasks.artifacts import ModelCard, Step, load_card, load_data, load_model, load_steps, preprocess, save_model
from assay.tasks.cells import Cell, Env, Ref
from assay.tasks.given import file_digest, sha256
from assay.tasks.job import Job

PARTS = ("model.json", "model.safetensors", "edits", "links", "preprocessing")
"""The files and folders of a model artifact that say what it computes."""
PROBES = 4
ALIKE = 1e-4
"""How far two preprocessings of the same input may be apart, in the model's units."""
FEW = 8


def _files(folder: Path) -> list[Path]:
    found = [folder / name for name in PARTS]
    return sorted(f for path in found for f in (path.rglob("*") if path.is_dir() else [path]) if f.is_file())


def content(folder: Path, project: Path | None = None) -> str:
    """A digest of what a model artifact says: its files by name, with `project`'s memory of their digests."""
    known = sha256 if project is None else (lambda path: file_digest(project, path))
    rows = [f"{path.relative_to(folder).as_posix()} {known(path)}" for path in _files(folder)]
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def _entry(step: Step) -> dict[str, Any]:
    return {"id": step.id, "params": dict(step.params)}


def started_cell(label: str, key: str, folder: Path, reference: str, problem: str, data: Ref, env: Env) -> Cell:
    """The cell of a model artifact in a folder. What it says is in its key, not where it lies or what it is called."""
    card = load_card(folder)
    spec = {
        "content": content(folder, Path(env.project)),
        "model": _entry(card.model),
        **{name: [_entry(step) for step in getattr(card, name)] for name in ("edits", "links", "preprocessing")},
        "problem": c.problem_entry(problem),
    }
    cell = c.make("train", "train", label, "assay.tasks.started:model", spec, {"data": data}, env)
    return replace(cell, spec={**spec, "path": str(folder), "as": f"{key}.from: {reference}"})


def model(job: Job) -> None:
    """Writes the artifact again. Raises BadInput where this run's data are not what the model was made for."""
    folder, key = Path(job.spec["path"]), job.spec["as"]
    if not folder.is_dir() or content(folder) != job.spec["content"]:
        raise BadInput(f"{key}: {folder} changed since the run was planned: run it again")
    card, data = load_card(folder), load_data(job.inputs["data"])
    faults = list(misfits(card, data.spec, load_steps(job.inputs["data"] / "preprocessing")))
    if faults:
        raise BadInput("\n".join([f"{key} is not for these data:", *(f"  {line}" for line in faults)]))
    save_model(job.out, card, load_model(folder).state_dict())
    (job.out / "history.csv").write_text("epoch\n", encoding="utf-8")


def misfits(card: ModelCard, spec: DataSpec, steps: Sequence[Step]) -> Iterator[str]:
    """What keeps a model from being asked of data that passed these steps, one line each."""
    own = card.spec
    for name, what in (("problem", "problem"), ("modality", "inputs"), ("shape", "examples of shape")):
        mine, its = getattr(own, name), getattr(spec, name)
        if mine != its:
            shown = [list(v) if isinstance(v, tuple) else v for v in (mine, its)]
            yield f"{what} {shown[0]}; the data set's: {shown[1]}"
    if len(own.classes) != len(spec.classes) or own.n_outputs != spec.n_outputs:
        yield f"it has {_classes(own)}; the data set {_classes(spec)}"
    else:
        other = [(i, a, b) for i, (a, b) in enumerate(zip(own.classes, spec.classes, strict=True)) if a != b]
        yield from (f"its class {i} is '{a}'; the data set's is '{b}'" for i, a, b in other[:3])
    if own.modality == "tokens" and spec.high[0] > own.high[0]:
        yield f"it knows the tokens 0..{own.high[0]:.0f}; the data set has up to {spec.high[0]:.0f}"
    if (own.modality, own.shape) == (spec.modality, spec.shape):
        yield from _otherwise(card, steps, spec)


def _classes(spec: DataSpec) -> str:
    if not spec.classes:
        return f"{spec.n_outputs} outputs"
    return f"{len(spec.classes)} classes ({', '.join(spec.classes[:5])}{', …' if len(spec.classes) > 5 else ''})"


def _otherwise(card: ModelCard, steps: Sequence[Step], spec: DataSpec) -> Iterator[str]:
    """Whether the same raw input becomes another one here than it did for the model: both preprocessings are tried."""
    raw = next((step.takes for step in steps if step.takes is not None), spec)
    ways = f"its inputs passed {_way(card.preprocessing)}; this run's pass {_way(steps)}"
    if (card.raw.modality, card.raw.shape) != (raw.modality, raw.shape):
        yield f"{ways}: they begin with {list(card.raw.shape)} and {list(raw.shape)}"
        return
    probe = Data(card.raw, {"new": Split({"x": probes(card.raw)})})
    before, now = (preprocess(probe, way).splits["new"].batch(slice(None)).x for way in (card.preprocessing, steps))
    apart = float((before - now).abs().max())
    if apart > ALIKE:
        yield (
            f"{ways}: the same input differs by up to {apart:.3g}. Write the model's transforms under `prepare`, with "
            f"the values that they had"
        )


def probes(spec: DataSpec) -> np.ndarray:
    """A few random raw inputs (N, *spec.shape), within the bounds of the description."""
    rng, shape = np.random.default_rng(0), (PROBES, *spec.shape)
    if spec.modality == "image" and set(spec.low) == {0.0} and set(spec.high) == {1.0}:
        return rng.integers(0, 256, shape).astype(np.uint8)
    low, high = min(spec.low), max(spec.high)
    if spec.dtype == "int64":
        return rng.integers(int(low), int(high) + 1, shape)
    return rng.uniform(low, high, shape).astype(np.float32)


def _way(steps: Sequence[Step]) -> str:
    return " → ".join(map(_told, steps)) or "no transform"


def _told(step: Step) -> str:
    """A step with what little it learned that can be read: a mean, a deviation."""
    small = {name: v.flatten().tolist() for name, v in step.record.tensors.items() if v.numel() <= FEW}
    words = ", ".join(f"{name} {' '.join(f'{x:.6g}' for x in values)}" for name, values in small.items())
    return f"{step.id.rpartition('/')[2]} ({words})" if words else step.id.rpartition("/")[2]
