"""The lab: how a method asks for trainings, each of them a cell."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from assay.plugins import registry
from assay.plugins.contract import Ask, Data, Result, Subject, Trained
from assay.tasks.artifacts import checkpoints, load_checkpoint, load_data, load_model
from assay.tasks.cells import Cell, Ref, ask_cells, method_of
from assay.tasks.job import context, seed_for
from assay.tasks.store import Store
from assay.tasks.subject import Inference, loss_by, predictor, scorer


class Pending(Exception):
    """Trainings that are not in the store yet; the parent computes them and runs the cell again."""

    def __init__(self, cells: Sequence[Cell]):
        super().__init__(f"{len(cells)} trainings to wait for")
        self.cells = list(cells)


class CellLab:
    """The lab of one cell: its data, its recipe, and the store."""

    def __init__(self, cell: Cell, store: Store, device: torch.device):
        self.cell, self.store, self.device = cell, store, device
        self.recipe: Mapping[str, Any] = cell.spec["recipe"]
        self.seed: int = int(cell.spec["train_seed"])
        self.data: Data = load_data(self._folder(cell.inputs["data"]))
        self.loss = loss_by(method_of(self.recipe["objective"]))

    def _folder(self, ref: Ref) -> Any:
        return self.store.folder(ref.slot, ref.key)

    def new_model(self, seed: int) -> nn.Module:
        """A new model of the recipe's architecture."""
        method = method_of(self.recipe["model"])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(seed, "model"))
            model: nn.Module = method.build(self.data.spec, context(seed, "init", self.data.spec, self.device))
        return model.to(self.device)

    def train(self, asks: Sequence[Ask]) -> list[Trained]:
        """The finished trainings, in order. Raises Pending with those that are missing."""
        label = f"{self.cell.label} training"
        cell = self.cell
        chains = ask_cells(label, asks, self.recipe, self.seed, cell.env, cell.stage, cell.inputs)
        missing = {first.key: first for chain in chains if (first := self._first_missing(chain)) is not None}
        if missing:
            raise Pending(list(missing.values()))
        return [self._trained(chain[-1]) for chain in chains]

    def _first_missing(self, chain: Sequence[Cell]) -> Cell | None:
        return next((cell for cell in chain if not self.store.has(cell.slot, cell.key)), None)

    def _trained(self, cell: Cell) -> Trained:
        folder = self._folder(cell.ref)
        with open(folder / "history.csv", newline="", encoding="utf-8") as file:
            history = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
        return Trained(
            model=load_model(folder).to(self.device),
            history=history,
            load_checkpoint=partial(load_checkpoint, folder),
            checkpoints=checkpoints(folder),
            data=load_data(self._folder(cell.inputs["data"])),
        )

    def evaluate(self, model: nn.Module, evaluator: str | Mapping[str, Any]) -> Result:
        """An evaluator's result for a model on the lab's data."""
        method = registry.make("evaluate", evaluator, "lab.evaluate")
        subject = Subject(
            model=model,
            predict=predictor(model, self.data.spec, Inference()),
            spec=self.data.spec,
            data={"main": self.data},
            score=scorer(self.data.spec),
        )
        result: Result = method.evaluate(subject, context(self.seed, method.method_name(), self.data.spec, self.device))
        return result
