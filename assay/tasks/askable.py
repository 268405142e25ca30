"""Which methods can be asked of a run's problem: faults of a recipe, and what is left out of the plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from assay.plugins import registry
from assay.tasks.cells import learner_faults, takes_lab
from assay.tasks.parallel import refusals

TRAINS = ("model", "batches", "objective", "learner", "optimizer", "schedule")
NO_RECIPE = "retrains the model, and train.from gives no recipe: say `epochs` (and optimizer, …) beside it"
TRAINS_MANY = ("edit", "augment", "penalty", "around")


def problem_name(steps: Sequence[Any]) -> str:
    """The problem of a data set, from its source and transforms alone."""
    source, *transforms = steps
    name: str = source.becomes()
    for transform in transforms:
        name = transform.becomes(name)
    return name


def learned(params: Any, train: Any) -> str:
    """The problem of the data set that a training learns."""
    return problem_name(steps_of(params, train))


def steps_of(params: Any, train: Any) -> Sequence[Any]:
    """The source and transforms of the data set that a training learns."""
    found: Sequence[Any] = params.datasets.get(train.data, params.prepare)
    return found


def fits(method: Any, problem: str) -> bool:
    """Whether a method's card allows a problem."""
    return "any" in method.card.problems or problem in method.card.problems


def why_not(method: Any, problem: str) -> str:
    """Why a method cannot be asked of a problem."""
    return (
        f"{registry.method_id(method)} is for {' or '.join(method.card.problems)}; the data set's problem is {problem}"
    )


def lacks(method: Any, role: str) -> str:
    """What a recipe must say so that a method gets the model of a role."""
    return f"{method.method_name()} needs a {role}: say `models: {{{role}: NAME}}` beside it, a name in `trainings`"


def unfit(method: Any, modality: str) -> str:
    """Why a method cannot take a data set's inputs, or '' where it can. Inputs are known once data are read."""
    kinds = method.card.modality
    if "any" not in kinds and modality not in kinds:
        return f"{registry.method_id(method)} takes {' or '.join(kinds)}; the data set's inputs are {modality}"
    if modality == "tokens" and "grad" in method.card.needs:
        return "its inputs are tokens, which have no gradient"
    return ""


def faults(params: Any) -> Iterator[str]:
    """What cannot be computed at all: transforms, recipes and links that the data set's problem does not
    allow, and a problem whose predictions nothing draws."""
    for key, steps in [("prepare", params.prepare), *((f"datasets.{n}", s) for n, s in params.datasets.items())]:
        if any(step.slot != "prepare/transform" for step in steps[1:]) or steps[0].slot != "prepare/source":
            return  # reported already, and then the problem is not known
        for i, step in enumerate(steps[1:], 1):
            before = problem_name(steps[:i])
            if not fits(step, before):
                yield f"{key}.{i}: {why_not(step, before)}"
            if takes_lab(step.fit) and params.train.models:
                name = step.method_name()
                yield f"{key}.{i}: {name} trains by the recipe, before there are the models of train.models"
    name = problem_name(params.prepare)
    problem = registry.make("problems", name)
    for key, train in [("train", params.train), *((f"trainings.{n}", t) for n, t in params.trainings.items())]:
        methods = [(slot, getattr(train, slot)) for slot in TRAINS if getattr(train, slot) is not None]
        methods += [(f"{slot}.{i}", m) for slot in TRAINS_MANY for i, m in enumerate(getattr(train, slot))]
        own = learned(params, train)
        yield from (f"{key}.{slot}: {why_not(m, own)}" for slot, m in methods if not fits(m, own))
        yield from (
            f"{key}.{slot}: {lacks(m, role)}"
            for slot, m in methods
            for role in m.card.roles
            if role not in train.models
        )
        if not any("validation" in step.card.gives for step in steps_of(params, train)):
            lacking = [(slot, m.method_name()) for slot, m in methods if "validation" in m.card.needs]
            add = "add transform/validation_split to its data set"
            yield from (f"{key}.{slot}: {short} needs a split `validation`; {add}" for slot, short in lacking)
        yield from (f"{key}.{slot}: {why}" for slot, why in learner_faults(train.learner, _asked_for(train, own)))
        for i, around in enumerate(train.around[:-1]):
            if "apart" in around.card.needs:
                yield f"{key}.around.{i}: {around.method_name()} needs each example's gradient: put it last"
        shared = refusals(train.devices, train.learner, train.around, train.compile)
        yield from (f"{key}.{part}: {reason}" for part, reason in shared)
        if "graph" in train.optimizer.card.needs and train.around:
            optimizer = train.optimizer.method_name()
            yield f"{key}.around: {optimizer} differentiates its gradients; an around leaves none to differentiate"
    for variant, links in params.compress.items():
        yield from (f"compress.{variant}.{i}: {why_not(m, name)}" for i, m in enumerate(links) if not fits(m, name))
    if params.train.learner.card.anew:
        yield from _continuations(params)
    if params.predict is not None and not fits(params.predict, name):
        yield f"predict: {why_not(params.predict, name)}"
    if problem.samples and params.predict is None and (params.evaluate or params.attribute.saliency):
        yield f"predict: a {name} model's predictions are drawn by a method of this slot; name one"


def _asked_for(train: Any, problem: str) -> dict[str, Sequence[Any]]:
    """A recipe's methods by slot, without what stands by default where the learner has no place for it."""
    names = {slot: type(train).model_fields[slot].default for slot in ("optimizer", "schedule")}
    names["objective"] = registry.make("problems", problem).objective
    asked: dict[str, Sequence[Any]] = {slot: getattr(train, slot) for slot in TRAINS_MANY}
    for slot, name in names.items():
        default = registry.make(f"train/{slot}", name)
        method = getattr(train, slot) or default
        asked[slot] = [] if method == default and slot in train.learner.card.refuses else [method]
    return asked


def _continuations(params: Any) -> Iterator[str]:
    """What would train the dense model on, where its learner cannot."""
    why = f"{params.train.learner.method_name()} trains from a start of its own and cannot continue from given weights"
    for variant, links in params.compress.items():
        for i, link in enumerate(links):
            if any(ask.start == "parent" and "learner" not in ask.changes for ask in link.asks()):
                short = registry.method_id(link).removeprefix("compress/")
                instead = "leave the link out, or take another train.learner"
                yield f"compress.{variant}.{i}: {short} trains the model on; {why}: {instead}"
    if params.attribute.ceiling == "finetune":
        yield f"attribute.ceiling: finetune trains the model on; {why}: take retrain"


def effective(params: Any) -> tuple[Any, list[tuple[str, str]]]:
    """The params as they are planned: the problem's objective where a recipe names none, and without what
    cannot be asked of the problem; and what was left out, with the reason."""
    name = problem_name(params.prepare)
    problem = registry.make("problems", name)
    skipped: list[tuple[str, str]] = []

    def kept(key: str, methods: Sequence[Any]) -> list[Any]:
        skipped.extend((f"{key} {m.method_name()}", why_not(m, name)) for m in methods if not fits(m, name))
        return [m for m in methods if fits(m, name)]

    def with_objective(train: Any) -> Any:
        if train.objective is not None:
            return train
        default = registry.make("problems", learned(params, train)).objective
        return train.model_copy(update={"objective": registry.make("train/objective", default)})

    section = params.attribute
    if not params.train.retrains:
        skipped.append(("train", "the dense model is given by train.from, and not trained"))
        if section.saliency and params.compress:
            skipped.append(("attribute ceiling", NO_RECIPE))
        retraining = [m for m in section.audit if takes_lab(m.audit)]
        skipped.extend((f"attribute.audit {m.method_name()}", NO_RECIPE) for m in retraining)
        section = section.model_copy(update={"audit": [m for m in section.audit if m not in retraining]})
    if section.saliency and not problem.explains:
        skipped.append(("attribute", f"a {name} model's prediction has no attribution to its input"))
        section = section.model_copy(update={"saliency": [], "agreement": [], "audit": []})
    attribute = section.model_copy(
        update={slot: kept(slot, getattr(section, slot)) for slot in ("saliency", "agreement", "audit", "controls")}
    )
    changes = {
        "train": with_objective(params.train),
        "trainings": {n: with_objective(t) for n, t in params.trainings.items()},
        "attribute": attribute,
        "evaluate": kept("evaluate", params.evaluate),
    }
    return params.model_copy(update=changes), skipped
