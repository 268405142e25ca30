"""Which methods can be asked of a run's problem: faults of a recipe, and what is left out of the plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from assay.plugins import registry

TRAINS = ("model", "batches", "objective", "learner", "optimizer", "schedule")
TRAINS_MANY = ("edit", "augment", "penalty", "around")


def problem_name(steps: Sequence[Any]) -> str:
    """The problem of a data set, from its source and transforms alone."""
    source, *transforms = steps
    name: str = source.becomes()
    for transform in transforms:
        name = transform.becomes(name)
    return name


def fits(method: Any, problem: str) -> bool:
    """Whether a method's card allows a problem."""
    return "any" in method.card.problems or problem in method.card.problems


def why_not(method: Any, problem: str) -> str:
    """Why a method cannot be asked of a problem."""
    return (
        f"{registry.method_id(method)} is for {' or '.join(method.card.problems)}; the data set's problem is {problem}"
    )


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
    name = problem_name(params.prepare)
    problem = registry.make("problems", name)
    for key, train in [("train", params.train), *((f"trainings.{n}", t) for n, t in params.trainings.items())]:
        methods = [(slot, getattr(train, slot)) for slot in TRAINS if getattr(train, slot) is not None]
        methods += [(f"{slot}.{i}", m) for slot in TRAINS_MANY for i, m in enumerate(getattr(train, slot))]
        yield from (f"{key}.{slot}: {why_not(m, name)}" for slot, m in methods if not fits(m, name))
        yield from _learner_faults(key, train)
        if not any("validation" in step.card.gives for step in params.prepare):
            for slot, method in methods:
                if "validation" in method.card.needs:
                    short = method.method_name()
                    yield f"{key}.{slot}: {short} needs a split `validation`; add transform/validation_split to prepare"
        if "graph" in train.optimizer.card.needs and train.around:
            optimizer = train.optimizer.method_name()
            yield f"{key}.around: {optimizer} differentiates its gradients; an around leaves none to differentiate"
    for variant, links in params.compress.items():
        yield from (f"compress.{variant}.{i}: {why_not(m, name)}" for i, m in enumerate(links) if not fits(m, name))
    if params.predict is not None and not fits(params.predict, name):
        yield f"predict: {why_not(params.predict, name)}"
    if problem.samples and params.predict is None and (params.evaluate or params.attribute.saliency):
        yield f"predict: a {name} model's predictions are drawn by a method of this slot; name one"


def _learner_faults(key: str, train: Any) -> Iterator[str]:
    """What of a recipe its learner cannot use."""
    learner = train.learner.method_name()
    if train.objective is not None and not train.learner.uses_objective:
        yield f"{key}.objective: {learner} has a loss of its own; leave `objective` out"
    if "graph" in train.optimizer.card.needs and "graph" not in train.learner.card.gives:
        optimizer = train.optimizer.method_name()
        yield f"{key}.learner: {optimizer} differentiates its gradients once more; those of {learner} cannot be"


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
        return train.model_copy(update={"objective": registry.make("train/objective", problem.objective)})

    section = params.attribute
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
