"""Data set and model artifacts as folders of safetensors, `.npy` and JSON; nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from assay.plugins import registry
from assay.plugins.contract import Attribution, BadData, Context, Data, DataSpec, Number, Record, Result, Split

FORMAT = 1


@dataclass(frozen=True)
class Step:
    """A method that was applied, with the record of what it decided; of a transform also what the data were
    before it."""

    id: str
    params: Mapping[str, Any]
    record: Record = field(default_factory=Record)
    takes: DataSpec | None = None

    def method(self) -> Any:
        """The method itself."""
        slot, _, name = self.id.rpartition("/")
        return registry.make(slot, {"name": name, **self.params}, self.id)


def step_of(method: Any, record: Record | None = None, takes: DataSpec | None = None) -> Step:
    """The step of a method and what it decided."""
    return Step(registry.method_id(method), method.model_dump(mode="json"), record or Record(), takes)


def write_json(path: Path, value: Any) -> None:
    """Deterministic JSON, newline at the end."""
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """The JSON in a file."""
    return json.loads(path.read_text(encoding="utf-8"))


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Tensors to safetensors: on the CPU, contiguous, shared storage written out for each name."""
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, path)


def save_steps(folder: Path, steps: Sequence[Step]) -> None:
    """Steps as `steps.json` and one safetensors file for each record that has tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i, step in enumerate(steps):
        row = {"id": step.id, "params": dict(step.params), "values": dict(step.record.values)}
        rows.append(row if step.takes is None else {**row, "takes": step.takes.model_dump(mode="json")})
        if step.record.tensors:
            save_tensors(folder / f"{i}.safetensors", step.record.tensors)
    write_json(folder / "steps.json", rows)


def load_steps(folder: Path) -> list[Step]:
    """The steps that `save_steps` wrote."""
    steps = []
    for i, row in enumerate(read_json(folder / "steps.json")):
        path = folder / f"{i}.safetensors"
        tensors = load_file(path) if path.exists() else {}
        takes = DataSpec(**row["takes"]) if "takes" in row else None
        steps.append(Step(row["id"], row["params"], Record(row["values"], tensors), takes))
    return steps


# data sets


def save_data(folder: Path, data: Data, preprocessing: Sequence[Step] = ()) -> None:
    """A data set artifact: `dataset.json`, one `.npy` per split and field, and the records that new
    data must pass. The same data give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, split in data.splits.items():
        for key, values in split.fields.items():
            np.save(folder / f"{name}.{key}.npy", np.ascontiguousarray(values), allow_pickle=False)
    for key, values in data.extras.items():
        np.save(folder / f"extra.{key}.npy", np.ascontiguousarray(values), allow_pickle=False)
    save_steps(folder / "preprocessing", preprocessing)
    write_json(
        folder / "dataset.json",
        {
            "format": FORMAT,
            "spec": data.spec.model_dump(mode="json"),
            "splits": {name: sorted(split.fields) for name, split in data.splits.items()},
            "sizes": {name: len(split) for name, split in data.splits.items()},
            "extras": sorted(data.extras),
            "provenance": dict(data.provenance),
        },
    )


def load_data(folder: Path) -> Data:
    """The data set artifact in a folder, its arrays memory-mapped.

    Raises BadData where the folder holds none.
    """
    if not (folder / "dataset.json").exists():
        raise BadData(f"{folder} holds no data set: dataset.json is missing")
    meta = read_json(folder / "dataset.json")

    def array(name: str) -> np.ndarray:
        return np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)

    return Data(
        spec=DataSpec(**meta["spec"]),
        splits={name: Split({k: array(f"{name}.{k}") for k in keys}) for name, keys in meta["splits"].items()},
        extras={k: array(f"extra.{k}") for k in meta["extras"]},
        provenance=meta["provenance"],
    )


# models


@dataclass(frozen=True)
class ModelCard:
    """How to rebuild a model: its architecture, what was done to it, what its inputs must pass."""

    spec: DataSpec
    model: Step
    edits: Sequence[Step] = ()
    links: Sequence[Step] = ()
    preprocessing: Sequence[Step] = ()
    gives: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def raw(self) -> DataSpec:
        """What new data are before the preprocessing."""
        return next((step.takes for step in self.preprocessing if step.takes is not None), self.spec)


def save_model(folder: Path, card: ModelCard, state: Mapping[str, Tensor]) -> None:
    """A model artifact: `model.json`, the records and `model.safetensors`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / "model.safetensors", state)
    for name in ("edits", "links", "preprocessing"):
        save_steps(folder / name, getattr(card, name))
    write_json(
        folder / "model.json",
        {
            "format": FORMAT,
            "spec": card.spec.model_dump(mode="json"),
            "model": {"id": card.model.id, "params": dict(card.model.params)},
            "gives": sorted(card.gives),
            "facts": dict(card.facts),
        },
    )


def load_card(folder: Path) -> ModelCard:
    """The card of the model artifact in a folder."""
    if not (folder / "model.json").exists():
        raise BadData(f"{folder} holds no model: model.json is missing")
    meta = read_json(folder / "model.json")
    return ModelCard(
        spec=DataSpec(**meta["spec"]),
        model=Step(meta["model"]["id"], meta["model"]["params"]),
        edits=load_steps(folder / "edits"),
        links=load_steps(folder / "links"),
        preprocessing=load_steps(folder / "preprocessing"),
        gives=meta["gives"],
        facts=meta["facts"],
    )


def rebuild(card: ModelCard) -> nn.Module:
    """The architecture with every edit and link replayed from its record; weights are arbitrary."""
    with torch.random.fork_rng(devices=[]):
        ctx = Context(rng=torch.Generator().manual_seed(0), spec=card.spec)
        model: nn.Module = card.model.method().build(card.spec, ctx)
        for step in (*card.edits, *card.links):
            model = step.method().apply(model, step.record)
    return model


def load_model(folder: Path, weights: Path | None = None) -> nn.Module:
    """The model of an artifact, in eval mode on the CPU, to the same logits as when it was saved.

    `weights` names another safetensors file of the same architecture (a checkpoint).
    """
    model = rebuild(load_card(folder))
    model.load_state_dict(load_file(weights or folder / "model.safetensors"), strict=True)
    return model.eval()


def checkpoints(folder: Path) -> list[str]:
    """Names of the kept checkpoints, in the order of training."""
    return sorted(path.stem for path in (folder / "checkpoints").glob("*.safetensors"))


def load_checkpoint(folder: Path, name: str) -> nn.Module:
    """The model at a kept checkpoint."""
    return load_model(folder, folder / "checkpoints" / f"{name}.safetensors")


def trajectory(folder: Path) -> Iterator[tuple[str, nn.Module]]:
    """The kept checkpoints in order, each loaded when it is reached."""
    for name in checkpoints(folder):
        yield name, load_checkpoint(folder, name)


def preprocess(data: Data, steps: Sequence[Step]) -> Data:
    """New data (split `new`) through the records that the model's training data passed."""
    for step in steps:
        data = step.method().apply(data, step.record)
    return data


# results


def save_result(folder: Path, result: Result) -> None:
    """A result: `result.json` with the numbers, `arrays.npz`-free `.npy` files beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, number in result.numbers.items():
        rows.append(
            {
                "name": name,
                "value": _finite(number.value),
                "unit": number.unit,
                "direction": number.direction,
                "definition": number.definition,
                "each": number.each is not None,
            }
        )
        if number.each is not None:
            np.save(folder / f"each.{name}.npy", np.asarray(number.each, dtype=np.float64), allow_pickle=False)
    for name, values in result.arrays.items():
        np.save(folder / f"array.{name}.npy", np.ascontiguousarray(values), allow_pickle=False)
    write_json(folder / "result.json", {"numbers": rows, "arrays": list(result.arrays), "not_auditable": ""})


def save_not_auditable(folder: Path, reason: str) -> None:
    """The reason why there are no numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "result.json", {"numbers": [], "arrays": [], "not_auditable": reason})


def not_auditable(folder: Path) -> str:
    """The reason why an artifact has no numbers or maps, or '' where it has."""
    path = folder / "result.json"
    return str(read_json(path)["not_auditable"]) if path.exists() else ""


def load_result(folder: Path) -> Result:
    """The result in a folder; without numbers where it was not auditable."""
    meta = read_json(folder / "result.json")
    numbers = {}
    for row in meta["numbers"]:
        each = np.load(folder / f"each.{row['name']}.npy", allow_pickle=False) if row["each"] else None
        value = float("nan") if row["value"] is None else row["value"]
        numbers[row["name"]] = Number(value, row["unit"], row["direction"], row["definition"], each)
    arrays = {k: np.load(folder / f"array.{k}.npy", allow_pickle=False) for k in meta["arrays"]}
    return Result(numbers, arrays)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def save_attribution(folder: Path, attribution: Attribution) -> None:
    """An attribution as `values.npy` (float32) and what it is over."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "values.npy", attribution.values.detach().cpu().float().numpy(), allow_pickle=False)
    write_json(folder / "attribution.json", {"over": attribution.over})


def load_attribution(folder: Path) -> Attribution:
    """The attribution in a folder."""
    values = np.load(folder / "values.npy", allow_pickle=False)
    return Attribution(torch.from_numpy(values), read_json(folder / "attribution.json")["over"])
