"""The plan: every cell of a run with its key, before anything runs; and why each must run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assay.plugins import registry
from assay.plugins.values import BadInput
from assay.tasks import cells as c
from assay.tasks import given, registered, started
from assay.tasks.askable import effective, learned, problem_name
from assay.tasks.cells import Cell, Env, Ref
from assay.tasks.job import MODEL
from assay.tasks.params import DENSE, PRETRAINED, Params, Train, labels, named_by
from assay.tasks.versions import source_digest

RANDOM = "random"


@dataclass
class Plan:
    """The cells of one run in an order in which they can be computed, and where each answer is.

    `models` maps dense, each variant, `reseeded-i` and `random` to model artifacts; the other tables map
    what was asked to the artifact with the answer. `skipped` says what was left out and why, `starts` which
    registered models a section starts from.
    """

    params: Params
    env: Env
    cells: dict[str, Cell] = field(default_factory=dict)
    data: dict[str, Ref] = field(default_factory=dict)
    trainings: dict[str, Ref] = field(default_factory=dict)
    models: dict[str, Ref] = field(default_factory=dict)
    chains: dict[str, list[Ref]] = field(default_factory=dict)
    gives: dict[str, frozenset[str]] = field(default_factory=dict)
    saliency: dict[tuple[str, str], Ref] = field(default_factory=dict)
    agreement: dict[tuple[str, str, str], Ref] = field(default_factory=dict)
    audit: dict[tuple[str, str, str], Ref] = field(default_factory=dict)
    evaluation: dict[tuple[str, str], Ref] = field(default_factory=dict)
    exported: dict[str, Ref] = field(default_factory=dict)
    unseen: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    starts: Mapping[str, registered.Start] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The pipeline's id: a hash of its sorted keys, and of what its verdicts are judged by."""
        judged = json.dumps([list(self.params.gates), self.params.attribute.margin])
        return hashlib.sha256("\n".join([*sorted(self.cells), judged]).encode()).hexdigest()[:16]

    @property
    def answers(self) -> list[Ref]:
        """Where the answers to all that was asked are."""
        tables = (self.data, self.models, self.saliency, self.agreement, self.audit, self.evaluation, self.exported)
        chained = [ref for chain in self.chains.values() for ref in chain]
        return [*(ref for table in tables for ref in table.values()), *chained]  # type: ignore[attr-defined]

    @property
    def variants(self) -> list[str]:
        """The variants, in the order of the params."""
        return list(self.params.compress)

    @property
    def reseeded(self) -> list[str]:
        """The dense retrainings with other seeds: the ceiling."""
        return [name for name in self.models if name.startswith("reseeded-")]

    @property
    def problem(self) -> str:
        """The main data set's problem."""
        return problem_name(self.params.prepare)

    def model_named(self, name: str) -> Ref:
        """The training that a method's parameter names: one of `trainings`, or the dense model."""
        return self.models[DENSE] if name == DENSE else self.trainings[name]

    def recipe(self, train: Train) -> dict[str, Any]:
        """A training's recipe as a cell's spec has it."""
        return c.recipe_spec(train, learned(self.params, train))

    def add_study(self, kind: str, method: Any, space: Mapping[str, Sequence[Any]] | None = None) -> Cell:
        """Plans a study, or a search over a space, on the main data and recipe."""
        spec: dict[str, Any] = {
            "method": c.entry(method),
            "seed": self.params.seed,
            "recipe": self.recipe(self.params.train),
            "train_seed": self.params.section_seed("train"),
            **_predict(self),
        }
        if space is not None:
            # A key knows no order of paths, so that an answer may not depend on it.
            spec["space"] = {path: list(values) for path, values in sorted(space.items())}
            spec["uses"] = [_used(kind, method, id) for id in method.uses()]
        inputs = {"data": self.data["main"], **_named(self, method, self.params.predict)}
        inputs.update({f"{c.RECIPE}{r}": self.trainings[n] for r, n in self.params.train.models.items()})
        label = f"{kind} {method.method_name()}"
        cell = c.make(kind, kind, label, f"assay.tasks.study:{kind}", spec, inputs, self.env)
        self.evaluation[kind, method.method_name()] = self.add(cell)
        return cell

    def only(self, cell: Cell) -> Plan:
        """The plan of one cell and of all that it is computed from."""
        wanted, waiting = {}, [cell.key]
        while waiting:
            found = self.cells[waiting.pop()]
            wanted[found.key] = found
            waiting.extend(ref.key for ref in found.inputs.values())
        kept = {key: found for key, found in self.cells.items() if key in wanted}
        answer = {place: ref for place, ref in self.evaluation.items() if ref.key == cell.key}
        return Plan(self.params, self.env, cells=kept, data={"main": self.data["main"]}, evaluation=answer)

    def add(self, cell: Cell) -> Ref:
        """Adds a cell unless an equal one is there, and returns where its artifact is."""
        self.cells.setdefault(cell.key, cell)
        return cell.ref

    def groups(self, keys: Sequence[str]) -> dict[str, list[Cell]]:
        """The named cells by group, in order."""
        found: dict[str, list[Cell]] = {}
        for key in keys:
            found.setdefault(self.cells[key].group, []).append(self.cells[key])
        return found


def _used(kind: str, method: Any, id: str) -> dict[str, Any]:
    """A method that another asks the lab for by name. Raises BadInput."""
    try:
        return c.entry(registry.make(*id.rsplit("/", 1)))
    except (ValueError, registry.UnknownMethod) as error:
        raise BadInput(f"{kind} {method.method_name()}: {error}") from error


def make_plan(params: Params, project: Path, device: str) -> Plan:
    """Plans a run. Reads no data; a source that was never materialised is in `unseen` and gets a
    provisional key."""
    params, starts = registered.resolved(params, project)
    planned, skipped = effective(params)
    plan = Plan(planned, Env(device, params.threads, str(project.resolve())), skipped=skipped, starts=starts)
    params = planned
    plan.data["main"] = _prepare(plan, "prepare", params.prepare, project)
    for name, steps in params.datasets.items():
        plan.data[name] = _prepare(plan, f"datasets.{name}", steps, project)
    _train(plan)
    _compress(plan)
    _attribute(plan)
    _evaluate(plan)
    return plan


def _prepare(plan: Plan, label: str, steps: Sequence[Any], project: Path) -> Ref:
    source, *transforms = steps
    name = source.dataset or source.method_name()
    digest = source_digest(project, source)
    if digest is None:
        plan.unseen.append(label)
        provisional = json.dumps(c.entry(source), sort_keys=True)
        digest = "unseen:" + hashlib.sha256(provisional.encode()).hexdigest()
    spec = {"dataset": name, "digest": digest, "method": c.entry(source), "project": plan.env.project}
    ref = plan.add(
        c.source_cell(f"{label} {registry.method_id(source).removeprefix('prepare/')}", digest, spec, plan.env)
    )
    for i, transform in enumerate(transforms, 1):
        short = registry.method_id(transform).removeprefix("prepare/")
        seed, train_seed = plan.params.section_seed("prepare"), plan.params.section_seed("train")
        recipe = plan.recipe(plan.params.train)
        ref = plan.add(c.transform_cell(f"{label} {i} {short}", transform, seed, ref, plan.env, recipe, train_seed))
    return ref


def _train(plan: Plan) -> None:
    params, data = plan.params, plan.data["main"]
    for name, train in params.trainings.items():
        plan.trainings[name] = _training(plan, f"trainings.{name}", f"train {name}", train, _seed(params, train), {})
    models = {role: plan.trainings[name] for role, name in params.train.models.items()}
    recipe, seed = plan.recipe(params.train), params.section_seed("train")
    plan.models[DENSE] = _training(plan, "train", "train dense", params.train, seed, models)
    if params.compress and params.attribute.saliency and params.train.retrains:
        start = plan.models[DENSE] if params.attribute.ceiling == "finetune" else None
        for i in range(1, params.attribute.reseeds + 1):
            name = f"reseeded-{i}"
            cell = c.training_cell(f"train {name}", recipe, seed + i, data, plan.env, start, models)
            plan.models[name] = plan.add(cell)
    if params.attribute.saliency:
        untrained = {**recipe, "epochs": 0}
        plan.models[RANDOM] = plan.add(
            c.training_cell("train random", untrained, seed + 7919, data, plan.env, None, models)
        )
    own = plan.starts["train"].card.gives if "train" in plan.starts else ()
    for name in plan.models:
        plan.gives[name] = frozenset(own if name == DENSE else ())


def _training(plan: Plan, key: str, label: str, train: Train, seed: int, models: Mapping[str, Ref]) -> Ref:
    """The model of a recipe: trained, one of `trainings`, or of the weights that are given."""
    recipe, data = plan.recipe(train), plan.data[train.data]
    if not train.start:
        return plan.add(c.training_cell(label, recipe, seed, data, plan.env, None, models))
    if train.start in plan.trainings:
        return plan.trainings[train.start]
    if key in plan.starts:
        start, problem = plan.starts[key], learned(plan.params, train)
        return plan.add(started.started_cell(label, key, start.folder, start.reference, problem, data, plan.env))
    file = str(train.model.pretrained()) if train.start == PRETRAINED else train.start
    path = given.weights_file(Path(plan.env.project), key, file)
    return plan.add(given.given_cell(label, key, recipe, path, seed, data, plan.env))


def _seed(params: Params, train: Train) -> int:
    return params.seed if train.seed is None else train.seed


def _compress(plan: Plan) -> None:
    params = plan.params
    recipe, train_seed = plan.recipe(params.train), params.section_seed("train")
    for variant, links in params.compress.items():
        ref, chain = plan.models[DENSE], []
        for i, link in enumerate(links):
            id = registry.method_id(link)
            label = f"compress {variant} {i} {id.removeprefix('compress/')}"
            spec: dict[str, Any] = {"method": c.entry(link), "seed": params.section_seed("compress")}
            inputs = {"model": ref, "data": plan.data["main"], **_named(plan, link)}
            if c.takes_lab(link.fit):
                spec.update(recipe={**recipe, "keep": []}, train_seed=train_seed)
                inputs.update({f"{c.RECIPE}{role}": plan.trainings[n] for role, n in params.train.models.items()})
                chains = c.ask_cells(
                    f"{label} training", link.asks(), spec["recipe"], train_seed, plan.env, "compress", inputs
                )
                for cell in (cell for asked in chains for cell in asked):
                    plan.add(cell)
                inputs.update({f"ask:{n}": asked[-1].ref for n, asked in enumerate(chains)})
            ref = plan.add(
                c.make("compress", id.rsplit("/", 1)[0], label, "assay.tasks.compress:link", spec, inputs, plan.env)
            )
            chain.append(ref)
        plan.models[variant], plan.chains[variant] = ref, chain
        plan.gives[variant] = plan.gives[DENSE] | {word for link in links for word in link.card.gives}


def _attribute(plan: Plan) -> None:
    section = plan.params.attribute
    if not section.saliency:
        return
    names = labels(section.saliency)
    for model in plan.models:
        for label, method in zip(names, section.saliency, strict=True):
            plan.saliency[model, label] = _saliency(plan, model, label, method)
    controls = dict(zip(labels(section.controls), section.controls, strict=True))
    for label, method in controls.items():
        plan.saliency[DENSE, f"control:{label}"] = _saliency(plan, DENSE, f"control:{label}", method)
    for label in names:
        for name, method in zip(labels(section.agreement), section.agreement, strict=True):
            for other in [m for m in plan.models if m != DENSE]:
                pair = (plan.saliency[DENSE, label], plan.saliency[other, label])
                plan.agreement[other, label, name] = _agreement(plan, other, label, name, method, pair)
            for control in controls:
                pair = (plan.saliency[DENSE, label], plan.saliency[DENSE, f"control:{control}"])
                key = (f"control:{control}", label, name)
                plan.agreement[key] = _agreement(plan, f"control {control}", label, name, method, pair)
        for name, method in zip(labels(section.audit), section.audit, strict=True):
            saliency = section.saliency[names.index(label)]
            for model in plan.models:
                plan.audit[model, label, name] = _audit(plan, model, label, name, method, saliency)
    for name, method in zip(labels(section.audit), section.audit, strict=True):
        for control, saliency in controls.items():
            plan.audit[DENSE, f"control:{control}", name] = _audit(
                plan, DENSE, f"control:{control}", name, method, saliency
            )


def _subject(plan: Plan, model: str, *methods: Any) -> dict[str, Ref]:
    """The inputs of a cell that looks at a model, with what `predict` and these methods name."""
    inputs = {"model": plan.models[model], "dense": plan.models[DENSE], "data": plan.data["main"]}
    return {**inputs, **_named(plan, *methods, plan.params.predict)}


def _named(plan: Plan, *methods: Any) -> dict[str, Ref]:
    """The inputs that the parameters of methods name: further data sets and trainings."""
    found: dict[str, Ref] = {}
    for method in methods:
        if method is not None:
            found.update({f"data:{name}": plan.data[name] for name in named_by(method, "datasets").values()})
            found.update({f"{MODEL}{name}": plan.model_named(name) for name in named_by(method, "trainings").values()})
    return found


def _predictions(plan: Plan) -> dict[str, Any]:
    """The part of a cell's spec that says what a prediction means, and how it is made."""
    return {"problem": c.problem_entry(plan.problem), **_predict(plan)}


def _predict(plan: Plan) -> dict[str, Any]:
    """The part of a cell's spec that says how a prediction is made, where that is a method's business."""
    return {} if plan.params.predict is None else {"predict": c.entry(plan.params.predict)}


def _saliency(plan: Plan, model: str, label: str, method: Any) -> Ref:
    section = plan.params.attribute
    spec = {
        "method": c.entry(method),
        "images": section.images,
        "seed": plan.params.section_seed("attribute"),
        **_predictions(plan),
    }
    cell = c.make(
        "attribute",
        "attribute/saliency",
        f"attribute {model} {label}",
        "assay.tasks.attribute:saliency",
        spec,
        _subject(plan, model, method),
        plan.env,
        f"attribute {model}",
    )
    return plan.add(cell)


def _agreement(plan: Plan, other: str, label: str, name: str, method: Any, pair: tuple[Ref, Ref]) -> Ref:
    inputs = {"a": pair[0], "b": pair[1]}
    cell = c.make(
        "attribute",
        "attribute/agreement",
        f"agree {other} {label}:{name}",
        "assay.tasks.attribute:agreement",
        {"method": c.entry(method)},
        inputs,
        plan.env,
        f"agree {other}",
    )
    return plan.add(cell)


def _audit(plan: Plan, model: str, label: str, name: str, method: Any, saliency: Any) -> Ref:
    section = plan.params.attribute
    spec: dict[str, Any] = {
        "method": c.entry(method),
        "saliency": c.entry(saliency),
        "images": section.images,
        "seed": plan.params.section_seed("attribute"),
        **_predictions(plan),
    }
    inputs = {**_subject(plan, model, method, saliency), "attribution": plan.saliency[model, label]}
    if c.takes_lab(method.audit):
        recipe = plan.recipe(plan.params.train)
        spec.update(recipe={**recipe, "keep": []}, train_seed=plan.params.section_seed("train"))
        inputs.update({f"{c.RECIPE}{r}": plan.trainings[n] for r, n in plan.params.train.models.items()})
    cell = c.make(
        "attribute",
        "attribute/audit",
        f"audit {model} {label}:{name}",
        "assay.tasks.attribute:audit",
        spec,
        inputs,
        plan.env,
        f"audit {model}",
    )
    return plan.add(cell)


def _evaluate(plan: Plan) -> None:
    methods = list(zip(labels(plan.params.evaluate), plan.params.evaluate, strict=True))
    for model in [DENSE, *plan.reseeded, *plan.variants]:
        exported = None
        int8 = "int8" in plan.gives[model]
        if int8 or any("runtime" in m.card.needs for _, m in methods):
            exported = _export(plan, model)
        for label, method in methods:
            machine = "machine" in method.card.needs
            if machine and model in plan.reseeded:
                continue
            inputs = _subject(plan, model, method)
            if exported and (int8 or "runtime" in method.card.needs):
                inputs["exported"] = exported
            if "peers" in method.card.needs:
                inputs.update({f"peer:{name}": plan.models[name] for name in plan.reseeded})
            objective = c.entry(plan.params.train.objective)
            seed = plan.params.section_seed("evaluate")
            spec = {"method": c.entry(method), "seed": seed, "objective": objective, **_predictions(plan)}
            cell = c.make(
                "evaluate",
                "/".join(registry.method_id(method).split("/")[:-1]),
                f"evaluate {model} {label}",
                "assay.tasks.evaluate:evaluate",
                spec,
                inputs,
                plan.env,
                f"{'measure' if machine else 'evaluate'} {model}",
                machine,
            )
            plan.evaluation[model, label] = plan.add(cell)


def _export(plan: Plan, model: str) -> Ref:
    if model not in plan.exported:
        cell = c.make(
            "evaluate",
            "export",
            f"export {model}",
            "assay.tasks.evaluate:export",
            {},
            {"model": plan.models[model]},
            plan.env,
            f"export {model}",
        )
        plan.exported[model] = plan.add(cell)
    return plan.exported[model]
