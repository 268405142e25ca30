"""Cells: the unit of work, key and store, and how a cell's key is made."""

from __future__ import annotations

import copy
import functools
import hashlib
import inspect
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from assay.plugins import registry
from assay.plugins.contract import Ask, BadInput, Objective, Penalty
from assay.tasks import closure as code_closure
from assay.tasks.job import method_of
from assay.tasks.parallel import refusals


@dataclass(frozen=True)
class Ref:
    """An artifact by slot and key."""

    slot: str
    key: str


@dataclass(frozen=True)
class Env:
    """What of the machine a key depends on, fixed when planning."""

    device: str
    threads: int
    project: str

    def ingredients(self) -> dict[str, Any]:
        """The part that enters keys."""
        return {"env.device": self.device, "env.threads": self.threads, "env.python": platform.python_version()[:4]}


@dataclass(frozen=True)
class Cell:
    """One computation: `task` (`module:function`) of `spec` on the artifacts `inputs`.

    `ingredients` is what the key was made of, flat, so that two keys can be compared in words. Cells of one
    `group` run one after the other in one process.
    """

    stage: str
    slot: str
    label: str
    task: str
    spec: Mapping[str, Any]
    inputs: Mapping[str, Ref]
    key: str
    ingredients: Mapping[str, Any]
    group: str
    exclusive: bool = False
    env: Env = field(default=Env("cpu", 1, "."))

    @property
    def ref(self) -> Ref:
        """Where its artifact is."""
        return Ref(self.slot, self.key)

    @property
    def devices(self) -> int:
        """How many devices, each with a process of its own, it computes on."""
        return int(self.spec.get("recipe", {}).get("devices", 1)) if self.slot == "train" else 1

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Cell:
        """The cell that `to_json` gave."""
        inputs = {role: Ref(**ref) for role, ref in value["inputs"].items()}
        return Cell(**{**value, "inputs": inputs, "env": Env(**value["env"])})


def entry(method: Any) -> dict[str, Any]:
    """A method in a cell's spec: its id and all its parameters."""
    return {"id": registry.method_id(method), "params": method.model_dump(mode="json")}


ENTRY = {"id", "params"}


def entries_in(spec: Any) -> Iterator[Mapping[str, Any]]:
    """The entries of the methods anywhere in a spec (of dicts, lists and plain values)."""
    if isinstance(spec, dict):
        if spec.keys() == ENTRY:
            yield spec
        for value in spec.values():
            yield from entries_in(value)
    elif isinstance(spec, list):
        for value in spec:
            yield from entries_in(value)


def flatten(value: Any, prefix: str) -> dict[str, Any]:
    """Nested dicts and lists as one level of dotted names; a method entry's `params` level is left out."""
    if isinstance(value, dict):
        if value.keys() == ENTRY:
            return {prefix: value["id"], **flatten(value["params"], prefix)}
        inside = [(f"{prefix}.{name}", inner) for name, inner in value.items()]
    elif isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        inside = [(f"{prefix}.{i}", inner) for i, inner in enumerate(value)]
    else:
        return {prefix: list(value) if isinstance(value, tuple) else value}
    flat: dict[str, Any] = {}
    for name, inner in inside:
        flat.update(flatten(inner, name) if isinstance(inner, dict | list) else {name: inner})
    return flat


@functools.cache
def _code_fields(id: str) -> tuple[str, ...]:
    """The parameters of a method that name code, as `package.module:name`."""
    fields = registry.load(id).model_fields
    extras = {name: info.json_schema_extra for name, info in fields.items()}
    return tuple(name for name, extra in extras.items() if isinstance(extra, dict) and extra.get("names") == "code")


def _named_code(spec: Mapping[str, Any]) -> Iterator[str]:
    """The modules that the methods of a spec name in their parameters."""
    for method in entries_in(spec):
        for name in _code_fields(method["id"]):
            yield method["params"][name].partition(":")[0]


def _check_followed(module: str, found: code_closure.Closure, project: str) -> None:
    if module not in found.modules and module.partition(".")[0] not in found.distributions:
        raise BadInput(
            f"module '{module}' lies neither in the project's folder {project} nor in an installed distribution, so "
            f"that a change in it would go unseen: move it beside params.yaml, or install it"
        )


@functools.lru_cache(maxsize=4096)
def _code(
    task: str, methods: tuple[str, ...], named: tuple[str, ...], lab: bool, project: str
) -> tuple[Mapping[str, Any], str]:
    roots = [task.partition(":")[0], *(registry.find(id).module for id in methods), *named, *(LAB if lab else ())]
    found = code_closure.closure(roots, Path(project))
    for module in named:
        _check_followed(module, found, project)
    modules = {f"code.{name}": digest for name, digest in found.modules.items() if name not in FRAME}
    ingredients = {**modules, **{f"version.{name}": version for name, version in found.distributions.items()}}
    return ingredients, _digest(ingredients)


def code(task: str, spec: Mapping[str, Any], project: str) -> tuple[Mapping[str, Any], str]:
    """The code that a cell depends on, as ingredients, and a digest of them."""
    methods = tuple(sorted({method["id"] for method in entries_in(spec)}))
    return _code(task, methods, tuple(sorted(set(_named_code(spec)))), has_lab(spec), project)


def has_lab(spec: Mapping[str, Any]) -> bool:
    """Whether a cell's method is given a lab, by the cell's spec."""
    return "recipe" in spec and "train_seed" in spec


def refresh() -> None:
    """Forgets what this process knows of code and methods where a file of them is another by now."""
    if code_closure.changed():
        _code.cache_clear()
        registry.index.cache_clear()
    for folder in {entry.file.parent for entry in registry.index().entries.values()}:
        code_closure.watch(folder)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


RECIPE = "recipe:"
"""The role of an input that the recipe's methods are given as a named model begins so."""

# What a cell with a lab runs beside its task and its method.
LAB = ("assay.tasks.lab", "assay.tasks.training")

# How cells are found, kept and sent about does not change what they compute.
FRAME = frozenset(f"assay.tasks.{name}" for name in ("cells", "closure", "store", "disk", "compute", "gates")) | {
    "assay",
    "assay.tasks",
    "assay.plugins",
    "assay.plugins.registry",
}


def make(
    stage: str,
    slot: str,
    label: str,
    task: str,
    spec: Mapping[str, Any],
    inputs: Mapping[str, Ref],
    env: Env,
    group: str = "",
    exclusive: bool = False,
) -> Cell:
    """A cell with its key."""
    sources, digest = code(task, spec, env.project)
    ingredients: dict[str, Any] = {
        "task": task,
        **flatten(spec, stage),
        **{f"input.{role}": ref.key for role, ref in inputs.items()},
        **env.ingredients(),
    }
    if exclusive:
        ingredients.update({f"machine.{k}": v for k, v in machine().items()})
    key = _digest([slot, ingredients, digest])
    ingredients.update(sources)
    return Cell(stage, slot, label, task, spec, inputs, key, ingredients, group or label, exclusive, env)


def source_cell(label: str, digest: str, spec: Mapping[str, Any], env: Env) -> Cell:
    """A source's cell: its key is its content's digest and nothing else."""
    key = hashlib.sha256(f"source:{digest}".encode()).hexdigest()[:32]
    ingredients = {"input.digest": digest}
    return Cell(
        "prepare", "prepare/source", label, "assay.tasks.data:source", spec, {}, key, ingredients, label, False, env
    )


@functools.cache
def machine() -> dict[str, Any]:
    """The CPU's model and number of cores."""
    import os

    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), model)
    except OSError:
        pass
    return {"cpu": model, "cores": os.cpu_count()}


# trainings, which links, audits and searches ask for too


def problem_entry(name: str) -> dict[str, Any]:
    """A problem in a cell's spec: cells that ask what a prediction means depend on its code."""
    return entry(registry.make("problems", name))


def recipe_spec(train: Any, problem: str = "classification") -> dict[str, Any]:
    """The section `train` in the form of a cell's spec, for data of a problem."""
    slots = ("model", "batches", "objective", "learner", "optimizer", "schedule")
    lists = ("edit", "augment", "penalty", "around")
    plain = ("epochs", "keep", "precision", "compile", "channels_last", "devices")
    return {
        **{slot: entry(getattr(train, slot)) for slot in slots},
        **{slot: [entry(m) for m in getattr(train, slot)] for slot in lists},
        **{name: getattr(train, name) for name in plain},
        "problem": problem_entry(problem),
    }


NEEDS_OF_LEARNER = {
    "closure": "asks for gradients itself",
    "graph": "differentiates its gradients once more",
    "apart": "needs each example's gradient",
    "activations": "reads the activations of layers",
}
"""What a recipe's methods may need of the learner: the words in their cards, and what they say."""


def learner_faults(learner: Any, asked: Mapping[str, Sequence[Any]]) -> Iterator[tuple[str, str]]:
    """What a learner cannot honour of the methods that a recipe asks for, by slot: the slot, and why."""
    name = learner.method_name()
    for slot, method in [(slot, method) for slot, methods in asked.items() for method in methods]:
        short = method.method_name()
        if slot in learner.card.refuses:
            yield slot, f"{name} has no place for {short}; leave `{slot}` out"
            continue
        wanted = {*method.card.needs, *(("activations",) if _reads(method) else ())}
        lacking = [word for word in NEEDS_OF_LEARNER if word in wanted and word not in learner.card.gives]
        if lacking:
            needs = " and ".join(NEEDS_OF_LEARNER[word] for word in lacking)
            yield slot, f"{short} {needs}, and {name} cannot give that; take another {slot} or learner"


def _reads(method: Any) -> bool:
    """Whether a term of the loss says that it reads activations."""
    return isinstance(method, Objective | Penalty) and type(method).reads not in (Objective.reads, Penalty.reads)


def _check_asked(label: str, recipe: Mapping[str, Any], ask: Ask) -> None:
    """Raises BadInput where a recipe that a method changed has what its learner cannot honour. What it has no
    place for among the methods that every recipe has counts where the method asks for it: others may be there by
    default."""
    learner = method_of(recipe["learner"])
    asked = {slot: [method_of(m) for m in recipe[slot]] for slot in ("edit", "augment", "penalty", "around")}
    every = ("objective", "optimizer", "schedule")
    single = [slot for slot in every if slot not in learner.card.refuses or slot in ask.changes]
    asked.update({slot: [method_of(recipe[slot])] for slot in single})
    shared = refusals(recipe["devices"], learner, asked["around"], recipe["compile"])
    for part, why in (*learner_faults(learner, asked), *shared):
        raise BadInput(f"{label}: train.{part}: {why}")


def training_cell(
    label: str,
    recipe: Mapping[str, Any],
    seed: int,
    data: Ref,
    env: Env,
    start: Ref | None = None,
    models: Mapping[str, Ref] | None = None,
    stage: str = "train",
) -> Cell:
    """The cell of one training. Raises BadInput where it starts from a model and its learner cannot."""
    learner = method_of(recipe["learner"])
    if start is not None and learner.card.anew:
        name = learner.method_name()
        raise BadInput(f"{label}: {name} trains from a start of its own and cannot continue from given weights")
    inputs = {"data": data, **({"start": start} if start else {})}
    inputs.update({f"model:{role}": ref for role, ref in (models or {}).items()})
    return make(stage, "train", label, "assay.tasks.training:train", {"recipe": recipe, "seed": seed}, inputs, env)


def changed_recipe(recipe: Mapping[str, Any], ask: Ask) -> dict[str, Any]:
    """The recipe with an ask's changes: `epochs`, `optimizer.lr`, or a whole method as a mapping. Raises BadInput."""
    changed: dict[str, Any] = copy.deepcopy(dict(recipe))
    for path, value in ask.changes.items():
        slot, _, rest = path.partition(".")
        if slot not in changed:
            raise BadInput(f"a training has no '{slot}': {path}")
        try:
            changed[slot] = _changed(changed[slot], slot, rest, value, path)
        except (ValueError, registry.UnknownMethod) as error:
            raise BadInput(str(error)) from error
    return changed


def _changed(before: Any, slot: str, rest: str, value: Any, path: str) -> Any:
    if rest and not isinstance(before, Mapping):
        raise BadInput(f"{path}: '{slot}' has no parameters by name: change the whole of it")
    if rest:
        name = before["id"].rpartition("/")[2]
        return entry(registry.make(f"train/{slot}", {"name": name, **before["params"], rest: value}, slot))
    if isinstance(before, Mapping):
        return entry(registry.make(f"train/{slot}", value, path))
    if slot in ("edit", "augment", "penalty", "around"):
        return [entry(registry.make(f"train/{slot}", v, path)) for v in value]
    return value


def transform_cell(
    label: str, method: Any, seed: int, data: Ref, env: Env, recipe: Mapping[str, Any], train_seed: int
) -> Cell:
    """The cell of one transform; one that trains gets the recipe."""
    spec: dict[str, Any] = {"method": entry(method), "seed": seed}
    if takes_lab(method.fit):
        spec.update(recipe=dict(recipe), train_seed=train_seed)
    return make("prepare", "prepare/transform", label, "assay.tasks.data:transform", spec, {"data": data}, env)


def ask_cells(
    label: str,
    asks: Sequence[Ask],
    recipe: Mapping[str, Any],
    seed: int,
    env: Env,
    stage: str,
    inputs: Mapping[str, Ref],
) -> list[list[Cell]]:
    """The cells of a method's asks, in order: for each its transforms, then its training. `inputs` are
    those of the asking cell: `data`, maybe the parent `model`, the models that its parameters name, and
    those of the recipe by role."""
    found = []
    for i, ask in enumerate(asks):
        name = label if len(asks) == 1 else f"{label} ({i + 1}/{len(asks)})"
        if ask.start == "parent" and "model" not in inputs:
            raise BadInput(f"{label}: there is no parent model to start from")
        own_seed = seed if ask.seed is None else ask.seed
        data, chain, changed = inputs["data"], [], changed_recipe(recipe, ask)
        for raw in ask.transforms:
            method = registry.make("prepare", raw, label)
            before = changed["problem"]["id"].rpartition("/")[2]
            changed["problem"] = problem_entry(method.becomes(before))
            short = registry.method_id(method).removeprefix("prepare/")
            chain.append(transform_cell(f"{name} {short}", method, own_seed, data, env, recipe, seed))
            data = chain[-1].ref
        models = {r.removeprefix(RECIPE): ref for r, ref in inputs.items() if r.startswith(RECIPE)}
        models.update({role: _asked_model(label, which, inputs) for role, which in ask.models.items()})
        start = inputs["model"] if ask.start == "parent" else None
        if isinstance(ask.start, Ask):
            (before,) = ask_cells(f"{name} start", [ask.start], recipe, seed, env, stage, {**inputs, "data": data})
            chain, start = [*chain, *before], before[-1].ref
        _check_asked(name, changed, ask)
        training = training_cell(name, changed, own_seed, data, env, start, models, stage)
        found.append([*chain, training])
    return found


def _asked_model(label: str, which: str, inputs: Mapping[str, Ref]) -> Ref:
    role = "model" if which == "parent" else f"model:{which}"
    if role not in inputs:
        known = ["parent", *(r.removeprefix("model:") for r in inputs if r.startswith("model:"))]
        raise BadInput(f"{label}: there is no model '{which}' to train with; known: {', '.join(known)}")
    return inputs[role]


def takes_lab(function: Any) -> bool:
    """Whether a method's function asks for a lab."""
    return _names_lab(getattr(function, "__func__", function))


@functools.lru_cache(maxsize=4096)
def _names_lab(function: Any) -> bool:
    return "lab" in inspect.signature(function).parameters
