"""The lab: how a method asks for trainings, each of them a cell."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from assay.plugins import registry
from assay.plugins.contract import Ask, BadInput, Data, Failed, Result, Subject, Trained
from assay.tasks.artifacts import checkpoints, load_checkpoint, load_data, load_model, load_result, not_auditable
from assay.tasks.cells import Cell, Ref, ask_cells, entry, make
from assay.tasks.inference import inference_of
from assay.tasks.job import context, method_of, seed_for
from assay.tasks.store import Store
from assay.tasks.subject import loss_by, predictor, scorer

AS_IT_IS = "epoch-00000"


class Pending(Exception):
    """Cells that are not in the store yet; the parent computes them and runs the asking cell again, with the
    failures of those that `may_fail`."""

    def __init__(self, cells: Sequence[Cell], may_fail: bool = False):
        super().__init__(f"{len(cells)} cells to wait for")
        self.cells, self.may_fail = list(cells), may_fail


def answer_cell(training: Cell, evaluator: Any) -> Cell:
    """The cell of an evaluator's answer on the model of a training's cell."""
    recipe = training.spec["recipe"]
    spec = {"method": entry(evaluator), "seed": training.spec["seed"]}
    spec.update({name: recipe[name] for name in ("objective", "problem")})
    inputs = {"model": training.ref, "dense": training.ref, "data": training.inputs["data"]}
    slot, _, name = registry.method_id(evaluator).rpartition("/")
    task = "assay.tasks.evaluate:evaluate"
    return make("evaluate", slot, f"{training.label} {name}", task, spec, inputs, training.env)


class CellLab:
    """The lab of one cell: its data, its recipe, the store, and the cells that were asked for and failed, with the
    reasons by key."""

    def __init__(self, cell: Cell, store: Store, device: torch.device, failures: Mapping[str, str]):
        self.cell, self.store, self.device, self.failures = cell, store, device, failures
        self.recipe: Mapping[str, Any] = cell.spec["recipe"]
        self.seed: int = int(cell.spec["train_seed"])
        self.data: Data = load_data(self._folder(cell.inputs["data"]))
        self.loss = loss_by(method_of(self.recipe["objective"]))
        self.trained: dict[str, dict[str, Any]] = {}  # what can be told of each asked training, by key

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
        return [self._trained(chain) for chain in chains]

    def attempt(self, asks: Sequence[Ask]) -> list[Trained | Failed]:
        """The trainings, in order, or why there is none. Raises Pending with those that are missing."""
        found = self._settled([self._chain(ask, f"({i}/{len(asks)})") for i, ask in enumerate(asks, 1)])
        return [chain if isinstance(chain, Failed) else self._trained(chain) for chain in found]

    def measure(
        self, asks: Sequence[Ask], evaluators: Sequence[str | Mapping[str, Any]]
    ) -> list[list[Result | Failed]]:
        """What each evaluator says of each ask's model, or why it says nothing. Raises Pending."""
        methods = [registry.make("evaluate", evaluator, self.cell.label) for evaluator in evaluators]
        chains = [self._chain(ask, f"({i}/{len(asks)})") for i, ask in enumerate(asks, 1)]
        questions = [
            chain if isinstance(chain, Failed) else [*chain, answer_cell(chain[-1], method)]
            for chain in chains
            for method in methods
        ]
        settled = self._settled(questions)
        answers = [chain if isinstance(chain, Failed) else self._answer(chain[-1]) for chain in settled]
        return [answers[i : i + len(methods)] for i in range(0, len(answers), max(len(methods), 1))]

    def _chain(self, ask: Ask, place: str) -> list[Cell] | Failed:
        """The cells of an ask, or why it cannot be asked."""
        cell, label = self.cell, f"{self.cell.label} training {place}"
        try:
            (chain,) = ask_cells(label, [ask], self.recipe, self.seed, cell.env, cell.stage, cell.inputs)
        except BadInput as error:
            return Failed(str(error))
        return chain

    def _settled(self, chains: Sequence[list[Cell] | Failed]) -> list[list[Cell] | Failed]:
        """Each chain where its last cell is there, or why it never will be. Raises Pending with those cells that
        are to be computed first."""
        missing: dict[str, Cell] = {}
        found: list[list[Cell] | Failed] = []
        for chain in chains:
            if isinstance(chain, Failed):
                found.append(chain)
                continue
            reasons = [self.failures[cell.key] for cell in chain if cell.key in self.failures]
            found.append(Failed(reasons[0]) if reasons else chain)
            if not reasons and (first := self._first_missing(chain)) is not None:
                missing[first.key] = first
        if missing:
            raise Pending(list(missing.values()), may_fail=True)
        return found

    def _answer(self, cell: Cell) -> Result | Failed:
        reason = not_auditable(self._folder(cell.ref))
        return Failed(reason) if reason else load_result(self._folder(cell.ref))

    def _first_missing(self, chain: Sequence[Cell]) -> Cell | None:
        return next((cell for cell in chain if not self.store.has(cell.slot, cell.key)), None)

    def _trained(self, chain: Sequence[Cell]) -> Trained:
        cell = chain[-1]
        folder = self._folder(cell.ref)
        with open(folder / "history.csv", newline="", encoding="utf-8") as file:
            history = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
        self.trained[cell.key] = {
            "key": cell.key,
            "recipe": cell.spec["recipe"],
            "seed": cell.spec["seed"],
            "transforms": [before.spec["method"] for before in chain if before.slot == "prepare/transform"],
            "start": cell.inputs["start"].key if "start" in cell.inputs else "",
            "history": history,
        }
        return Trained(
            model=load_model(folder).to(self.device),
            history=history,
            load_checkpoint=partial(load_checkpoint, folder),
            checkpoints=checkpoints(folder),
            data=load_data(self._folder(cell.inputs["data"])),
        )

    def evaluate(self, model: nn.Module, evaluator: str | Mapping[str, Any]) -> Result:
        """An evaluator's result for a model on the lab's data; the model predicts as the run's do, where the cell
        knows how. It is taken as it is, also where the evaluator asks what it was before its training. Raises
        NotAuditable where the evaluator needs a gradient that predictions have not."""
        method = registry.make("evaluate", evaluator, "lab.evaluate")
        inputs = {role: self._folder(ref) for role, ref in self.cell.inputs.items()}
        inference = inference_of(self.cell.spec, inputs, self.device)
        if "grad" in method.card.needs:
            inference.module(model, self.data.spec)  # raises where there is none
        subject = Subject(
            model=model,
            predict=predictor(model, self.data.spec, inference),
            spec=self.data.spec,
            data={"main": self.data},
            score=scorer(self.data.spec),
            loss=self.loss,
            trajectory=lambda: iter([(AS_IT_IS, model)]),
            through=inference.around(model, self.data.spec),
        )
        result: Result = method.evaluate(subject, context(self.seed, method.method_name(), self.data.spec, self.device))
        return result
