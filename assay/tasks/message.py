"""What a finished run has to say to MLflow: one row of plain values a model, and the files that go with it."""

from __future__ import annotations

import base64
import csv
import io
import math
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from assay.plugins import registry
from assay.tasks.artifacts import ModelCard, load_card, load_data, write_json
from assay.tasks.cells import entry, flatten
from assay.tasks.closure import version
from assay.tasks.inference import INFERENCE
from assay.tasks.params import named_by
from assay.tasks.plan import DENSE, Plan
from assay.tasks.reading import without_secrets
from assay.tasks.report.maps import gallery
from assay.tasks.report.prose import origin
from assay.tasks.results import chain_of
from assay.tasks.store import Store
from assay.tasks.summary import Summary

TRAINED = ("model", "objective", "optimizer", "learner", "schedule", "edit", "augment", "penalty", "around")
MODEL_FILES = ("model.json", "model.safetensors")
MODEL_FOLDERS = ("edits", "links", "preprocessing")
REPORT_FILES = ("report.html", "report.csv", "model_card.md", "summary.json")
TILE = 96


def rows(plan: Plan, store: Store, summary: Summary, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a model (dense, each variant): tags, parameters, metrics with steps, data sets.

    `judged` is what the gates say of a variant: True, False, or None for the dense model. `registers` says
    whether that counts in the registry: a trial (a run with `--set`) leaves it alone.
    """
    return [_row(plan, store, summary, facts, model) for model in summary.models]


def _row(plan: Plan, store: Store, summary: Summary, facts: Mapping[str, Any], model: str) -> dict[str, Any]:
    ref = plan.models[model]
    folder = store.folder(ref.slot, ref.key)
    card = load_card(folder)
    links = [] if model == DENSE else chain_of(plan, model)
    judged = None if model == DENSE else summary.variant_passed(model)
    data = list(facts.get("data", []))
    tags = {
        "pipeline": plan.id,
        "model": model,
        "kind": "dense" if model == DENSE else "variant",
        "key": ref.key,
        "chain": " → ".join(link["id"].removeprefix("compress/") for link in links),
        "methods": ", ".join([*_trained(plan), *(link["id"] for link in links)]),
        "data": str(data[0]["version"]) if data else "",
        "gates": "" if judged is None else "passed" if judged else "failed",
        "git": str(facts.get("git", "")),
        "command": without_secrets(str(facts.get("command", ""))),
        "from": plan.params.train.start,
        "note": _note(plan, summary, model, links),
    }
    return {
        "model": model,
        "key": ref.key,
        "judged": judged,
        "registers": judged is not None and not facts.get("trial", False),
        "tags": {name: value for name, value in tags.items() if value},
        "params": params(plan, links),
        "metrics": [*_numbers(summary, model), *_history(plan, store, model)],
        "data": [{name: row.get(name) for name in ("name", "source", "version", "sizes")} for row in data],
        "seconds": float(store.manifest(ref.slot, ref.key).get("seconds", 0)),
        "shape": list(card.spec.shape),
        "dtype": card.spec.dtype,
        "outputs": list(registry.make("problems", card.spec.problem).output(card.spec)),
        "requirements": _requirements(card),
    }


def _trained(plan: Plan) -> Iterator[str]:
    for slot in TRAINED:
        found = getattr(plan.params.train, slot)
        for method in found if isinstance(found, list) else [found]:
            yield registry.method_id(method)


def params(plan: Plan, links: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The parameters of a model with these links, flat."""
    found = {
        "seed": plan.params.seed,
        **flatten([entry(step) for step in plan.params.prepare], "prepare"),
        **flatten(plan.recipe(plan.params.train), "train"),
        **flatten(list(links), "compress"),
    }
    return {name: str(value) for name, value in found.items() if value not in (None, "", [])}


def _note(plan: Plan, summary: Summary, model: str, links: Sequence[Mapping[str, Any]]) -> str:
    """A run's description, in Markdown."""
    if model == DENSE:
        return f"The model from {origin(plan)}." if plan.params.train.start else "The dense model, as it was trained."
    failed = [gate.gate for gate in summary.gates if gate.variant == model and not gate.passed]
    chain = " → ".join(f"`{link['id'].removeprefix('compress/')}`" for link in links)
    gates = f"Failed gates: {', '.join(f'`{gate}`' for gate in failed)}" if failed else "It passed every gate."
    if not summary.gates:
        gates = "There are no gates."
    return f"{chain}\n\n{gates}"


def _numbers(summary: Summary, model: str) -> Iterator[list[Any]]:
    """Every number of a model, and how much worse than the dense model it is."""
    for row in summary.rows:
        if row.model != model or not math.isfinite(row.value):
            continue
        name = metric_name(row.name)
        yield [name, float(row.value), 0]
        if math.isfinite(row.drop):
            yield [f"{name}.drop", float(row.drop), 0]


def metric_name(name: str) -> str:
    """A number's name in the letters that MLflow takes; what judges maps stands below their method."""
    return re.sub(r"[^\w\-./ ]", "_", name.replace(":", "/"))


def _history(plan: Plan, store: Store, model: str) -> Iterator[list[Any]]:
    """The curves of a model's trainings, epoch by epoch: its own, or those that its links asked for."""
    trainings = {}
    if model == DENSE:
        trainings["train"] = plan.models[DENSE]
    else:
        for i, ref in enumerate(plan.chains[model]):
            asked = [r for role, r in plan.cells[ref.key].inputs.items() if role.startswith("ask:")]
            trainings |= {f"compress.{i}.{n}" if len(asked) > 1 else f"compress.{i}": r for n, r in enumerate(asked)}
    for prefix, ref in trainings.items():
        path = store.folder(ref.slot, ref.key) / "history.csv"
        if path.exists():
            with open(path, newline="", encoding="utf-8") as file:
                yield from curves(prefix, csv.DictReader(file))


def curves(prefix: str, lines: Iterable[Mapping[str, Any]]) -> Iterator[list[Any]]:
    """A training's history, line by line, as metrics with the epoch as their step."""
    for line in lines:
        step = int(float(line["epoch"]))
        for name, value in line.items():
            if name != "epoch" and value not in ("", None) and math.isfinite(float(value)):
                yield [f"{prefix}/{metric_name(name)}", float(value), step]


def _requirements(card: ModelCard) -> list[str]:
    """What must be installed where the model is served."""
    steps = (card.model, *card.edits, *card.links, *card.preprocessing)
    found = {entry.dist: entry.version for entry in (registry.find(step.id) for step in steps)}
    cards = [registry.load(step.id).card for step in steps]
    libraries = {one.library for one in cards if one.extra}
    kernels = {"onnxruntime"} if "int8" in card.gives else set()
    found |= {name: version(name) for name in ("assay", "torch", *libraries, *kernels)}
    return [f"{name}=={number}" if number else name for name, number in sorted(found.items())]


# files


def write_files(folder: Path, plan: Plan, store: Store, summary: Summary, report: Path) -> None:
    """Copies of all that is sent, so that a cleaned store or a new report changes nothing of it: `report/`,
    and for each model `<model>/artifact/`, `<model>/maps/` and `<model>/example.npy`."""
    (folder / "report").mkdir(parents=True)
    for name in REPORT_FILES:
        if (report.parent / name).exists():
            shutil.copyfile(report.parent / name, folder / "report" / name)
    asked = yaml.safe_dump(plan.params.model_dump(mode="json"), sort_keys=False)
    (folder / "report" / "params.yaml").write_text(without_secrets(asked), encoding="utf-8")
    main = plan.data["main"]
    example = load_data(store.folder(main.slot, main.key)).test.batch(slice(0, 1)).x.numpy()
    for model in summary.models:
        ref = plan.models[model]
        artifact = store.folder(ref.slot, ref.key)
        _copy_model(artifact, folder / model / "artifact")
        if "int8" in load_card(artifact).gives:  # served by the kernels that it was evaluated on
            exported = plan.exported[model]
            kernels = store.folder(exported.slot, exported.key) / "model.onnx"
            shutil.copyfile(kernels, folder / model / "artifact" / "model.onnx")
        if plan.params.predict is not None:
            _copy_inference(plan, store, folder / model / "artifact")
        np.save(folder / model / "example.npy", example, allow_pickle=False)
    _write_maps(folder, plan, store, summary.models)


def _copy_model(source: Path, target: Path) -> None:
    """The part of a model artifact that it takes to load it: neither checkpoints nor manifest."""
    target.mkdir(parents=True)
    for name in MODEL_FILES:
        shutil.copyfile(source / name, target / name)
    for name in MODEL_FOLDERS:
        shutil.copytree(source / name, target / name)


def _copy_inference(plan: Plan, store: Store, artifact: Path) -> None:
    """What predictions come from where that is a method's business: the method, and the models it asks."""
    named = {name: plan.model_named(name) for name in named_by(plan.params.predict, "trainings").values()}
    for name, ref in named.items():
        _copy_model(store.folder(ref.slot, ref.key), artifact / INFERENCE / name)
    (artifact / INFERENCE).mkdir(exist_ok=True)
    told = {"method": entry(plan.params.predict), "seed": plan.params.section_seed("evaluate"), "models": list(named)}
    write_json(artifact / INFERENCE / "predict.json", told)


def _write_maps(folder: Path, plan: Plan, store: Store, models: Sequence[str]) -> None:
    """A picture a model and saliency method: the report's images above, the model's maps below."""
    shown = gallery(plan, store)
    for grid in shown.grids:
        for model in models:
            tiles = [row[grid.models.index(model)].source for row in grid.tiles]
            if not any(tiles):
                continue
            path = folder / model / "maps" / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', grid.name)}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            _strip([[picture.source for picture in shown.pictures], tiles], path)


def _strip(lines: Sequence[Sequence[str]], path: Path) -> None:
    """Pictures given as data URIs, in lines, as one PNG."""
    from PIL import Image

    wide = max(len(line) for line in lines)
    sheet = Image.new("RGB", (wide * (TILE + 4) - 4, len(lines) * (TILE + 4) - 4), "white")
    for row, line in enumerate(lines):
        for column, source in enumerate(line):
            if source:
                with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as tile:
                    height = round(TILE * min(1, tile.height / tile.width))
                    width = round(TILE * min(1, tile.width / tile.height))
                    shown = tile.convert("RGB").resize((width, height), Image.Resampling.NEAREST)
                sheet.paste(shown, (column * (TILE + 4), row * (TILE + 4)))
    sheet.save(path, "PNG")
