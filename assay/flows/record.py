"""What DVC tracks of a run: pointer files, metrics, and the entries of `dvc.lock`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assay.flows.session import Session
from assay.plugins.values import AssayError, BadInput
from assay.tasks.artifacts import write_json
from assay.tasks.cells import Ref
from assay.tasks.params import validate
from assay.tasks.plan import DENSE, Plan
from assay.tasks.reading import read_tree, read_yaml
from assay.tasks.summary import Summary, metrics, timings

OUT = "out"


def pointers(plan: Plan, stage: str) -> dict[str, Any]:
    """File name → content of a stage's pointer files: the keys of its answers, nothing of this machine. What
    is in a stage's files depends on the params and files that `dvc.yaml` names for it and on nothing else, so
    the retrained models, which `attribute` asks for, are among its own."""

    def at(ref: Ref) -> str:
        return f"{ref.slot}/{ref.key}"

    if stage == "prepare":
        return {f"prepare/{name}.json": at(ref) for name, ref in plan.data.items()}
    if stage == "train":
        return {"train/dense.json": at(plan.models[DENSE])}
    if stage == "compress":
        return {f"compress/{variant}.json": [at(ref) for ref in plan.chains[variant]] for variant in plan.variants}
    if stage == "attribute":
        found: dict[str, Any] = {}
        for table in (plan.saliency, plan.agreement, plan.audit):
            for (model, *names), ref in table.items():
                file = f"attribute/{'controls' if ':' in model else model}.json"
                found.setdefault(file, {})["/".join(names)] = at(ref)
        return found or {"attribute/dense.json": {}}
    found = {}
    for (model, label), ref in plan.evaluation.items():
        if model in plan.reseeded:
            continue
        found.setdefault(f"evaluate/{model}.json", {})[label] = at(ref)
    return found or {"evaluate/dense.json": {}}


def write_pointers(project: Path, plan: Plan, stage: str, variant: str = "") -> None:
    """Writes a stage's pointer files; those of variants that are gone are removed."""
    wanted = pointers(plan, stage)
    folder = project / OUT / stage
    folder.mkdir(parents=True, exist_ok=True)
    if stage != "compress" or not variant:
        for path in folder.glob("*.json"):
            if f"{stage}/{path.name}" not in wanted:
                path.unlink()
    for name, content in wanted.items():
        if not variant or name == f"compress/{variant}.json":
            write_json(project / OUT / name, content)


def write_metrics(project: Path, plan: Plan, summary: Summary, store: Any) -> None:
    """`metrics.json`, the same to the byte for the same params; timings and curves in files of their own."""
    write_json(project / OUT / "metrics.json", metrics(summary))
    write_json(project / OUT / "timings.json", timings(summary))
    dense = plan.models[DENSE]
    shutil.copyfile(store.folder(dense.slot, dense.key) / "history.csv", project / OUT / "history.csv")


def commit(session: Session, summary: Summary) -> str:
    """Records the run in `dvc.lock`, where its params are those of the project's `params.yaml`; returns a
    note where they are not."""
    from assay.tasks.versions import commit_stages, folder_hash, restore, versions

    project = session.project
    if not (project / "dvc.yaml").exists():
        return ""
    try:
        same = validate(read_tree(project / "params.yaml")) == session.params
    except BadInput:
        same = False
    if not same:
        return "dvc.lock keeps the run of params.yaml: this run's params differ from it"
    for stage in ("prepare", "train", "compress", "attribute", "evaluate"):
        write_pointers(project, session.plan, stage)
    write_metrics(project, session.plan, summary, session.store)
    stages = ["prepare", "train", *(f"compress@{v}" for v in session.plan.variants), "attribute", "evaluate", "report"]
    names = sorted({cell.spec["dataset"] for cell in session.plan.cells.values() if cell.slot == "prepare/source"})
    try:
        for name in names:
            if not (project / "data" / name).is_dir():
                restore(project, name)
            elif folder_hash(project, name) != versions(project, name)[-1]:
                return f"dvc.lock was not updated: data/{name} was changed while the run was going"
        commit_stages(project, stages)
    except AssayError as error:
        return f"dvc.lock was not updated: {error}"
    given = [cell.spec["path"] for cell in session.plan.cells.values() if "sha256" in cell.spec]
    return dependencies_note(
        project, names, sorted({Path(os.path.relpath(path, project)).as_posix() for path in given})
    )


def dependencies_note(project: Path, names: Sequence[str], weights: Sequence[str]) -> str:
    """What to say where `dvc.yaml` names other data sets than a run used, or not the weights that it was given; ''
    where nothing is amiss."""
    stages = read_yaml((project / "dvc.yaml").read_text(encoding="utf-8"), "dvc.yaml")["stages"]
    wanted = ", ".join(f"data/{name}" for name in names)
    listed = ", ".join(sorted(stages["prepare"].get("deps", [])))
    notes = []
    if listed != wanted:
        notes.append(
            f"dvc.yaml: the deps of prepare are {listed or 'none'}, but the run used {wanted}: write that there"
        )
    missing = [name for name in weights if name not in stages["train"].get("deps", [])]
    if missing:
        notes.append(f"dvc.yaml: the deps of train lack {', '.join(missing)}, which the run used: add that there")
    return "\n".join(notes)
