"""What audits, evaluators, searches and studies promise: sound numbers that depend on the seed alone."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from assay.plugins.contract import Attribution, Data, NotAuditable, Number, Result, Subject
from assay.plugins.testing.base import Case, Skipped, demand, promise, takes_lab, twice
from assay.plugins.testing.given import TinyLab, explain, exported, plain_context, subject
from assay.plugins.testing.watch import close, same, untouched
from assay.plugins.testing.worlds import IMAGES, World, worlds

TIME = ("s", "ms", "us", "µs", "ns")


def sound_result(result: Any) -> None:
    """Raises Failed where a result is not as the contract says."""
    demand(isinstance(result, Result), f"it returns a {type(result).__name__}, not a Result")
    demand(result.numbers, "the result has no numbers")
    for name, number in result.numbers.items():
        demand(isinstance(number, Number), f"'{name}' is a {type(number).__name__}, not a Number")
        demand(number.definition.strip(), f"'{name}' has no definition")
        demand(number.direction in (-1, 0, 1), f"'{name}' has direction {number.direction}")
        demand(not np.isinf(number.value), f"'{name}' is infinite")
        declared = "nan" in number.definition.lower()
        demand(np.isfinite(number.value) or declared, f"'{name}' is NaN, and its definition does not say when")
        if number.each is not None:
            each = np.asarray(number.each, dtype=np.float64)
            demand(each.ndim == 1, f"'{name}'.each has shape {each.shape}, not one value an example")
            mean = np.nanmean(each) if np.isfinite(each).any() else np.nan
            close(torch.tensor(mean), torch.tensor(number.value), f"'{name}' and the mean of its `each`", 1e-6)
    for name, values in result.arrays.items():
        demand(isinstance(values, np.ndarray), f"array '{name}' is a {type(values).__name__}")
        demand(values.dtype.kind != "O", f"array '{name}' holds objects")


def answer(case: Case, world: World, given: Subject, **more: Any) -> Result:
    """An evaluator's or audit's result."""
    ctx = plain_context(world, **more)
    if case.id.startswith("evaluate/"):
        result: Result = case.method.evaluate(given, ctx)
        return result
    assert given.images is not None
    lab = {"lab": TinyLab(world, given.model)} if takes_lab(case.method.audit) else {}
    result = case.method.audit(given, explain(world)(given.model, given.images), ctx, **lab)
    return result


@contextlib.contextmanager
def presented(case: Case, world: World) -> Iterator[Subject]:
    """A trained model as the frame shows it to the slot: audits get images and maps."""
    model = world.model()
    with exported(case, world) as file:
        yield subject(case, world, model, world.images() if case.id.startswith("attribute/audit/") else None, file)


def results(case: Case) -> Iterator[tuple[World, Subject, Result]]:
    """The worlds in which the question can be asked: a subject that it was not asked of yet, and the
    answer on another; Skipped where in none."""
    done, reasons = False, []
    for world in worlds(case):
        with presented(case, world) as given:
            try:
                result = answer(case, world, given)
            except NotAuditable as error:
                demand(str(error).strip(), "NotAuditable without a reason")
                reasons.append(str(error))
                continue
        done = True
        with presented(case, world) as fresh:
            yield world, fresh, result
    if not done:
        raise Skipped(f"not auditable: {'; '.join(reasons)}")


def timeless(result: Result) -> dict[str, Number]:
    """The numbers that are no times: those are never the same twice."""
    return {k: n for k, n in result.numbers.items() if n.unit not in TIME and not n.unit.endswith("/s")}


JUDGES = ("attribute/audit", "evaluate")


@promise(*JUDGES)
def result(case: Case) -> None:
    """Numbers are finite (or the definition says when they are NaN) and defined; a mean over examples
    equals the mean of its `each`; arrays are numpy's."""
    for _, _, found in results(case):
        sound_result(found)


@promise(*JUDGES)
def names(case: Case) -> None:
    """The numbers are those that `numbers` announces, where it announces any, in that order."""
    announced = case.method.numbers()
    for _, _, found in results(case):
        given = tuple(found.numbers)
        demand(not announced or given == announced, f"{announced} announced, {given} given")


@promise(*JUDGES)
def subject_untouched(case: Case) -> None:
    """Models, data, images and peers are as they were."""
    for world, given, _ in results(case):
        with untouched(subject=given):
            answer(case, world, given)


@promise(*JUDGES)
def subject_untouched_after_an_exception(case: Case) -> None:
    """A model that raises in the middle is as it was: no hook, mode or gradient is left."""
    for world, given, _ in results(case):
        for fuse in (1, 2):
            attribution = explain(world)(given.model, given.images) if given.images is not None else None
            with untouched(subject=given), contextlib.suppress(Exception):
                given.model.fuse = fuse  # type: ignore[assignment]
                exploding_answer(case, world, given, attribution)
            given.model.fuse = 0  # type: ignore[assignment]


def exploding_answer(case: Case, world: World, given: Subject, attribution: Attribution | None) -> None:
    """Asks with maps made beforehand, so that the model raises within the method."""
    if attribution is None:
        case.method.evaluate(given, plain_context(world))
    else:
        lab = {"lab": TinyLab(world, given.model)} if takes_lab(case.method.audit) else {}
        case.method.audit(given, attribution, plain_context(world), **lab)


@promise(*JUDGES)
def same_result(case: Case) -> None:
    """The same seed gives the same numbers, times excepted, whatever the global generators hold."""
    for world, given, _ in results(case):
        first, second = twice(partial(answer, case, world, given))
        same(timeless(first), timeless(second), "two answers of one seed")


@promise(*JUDGES)
def any_batch_size(case: Case) -> None:
    """Smaller batches for lack of memory change no number by more than 1e-5."""
    if case.cls.card.coupled:
        raise Skipped("its card says `coupled`")
    for world, given, whole in results(case):
        parts = answer(case, world, given, batch_limit=3)
        demand(list(parts.numbers) == list(whole.numbers), f"other numbers: {list(parts.numbers)}")
        for name, number in timeless(whole).items():
            close(torch.tensor(number.value), torch.tensor(parts.numbers[name].value), f"'{name}' in batches of 3")


@promise(*JUDGES)
def example_independence(case: Case) -> None:
    """An example's value in `each` is the same with fewer examples beside it, within 1e-5."""
    if case.cls.card.coupled:
        raise Skipped("its card says `coupled`")
    for world, given, whole in results(case):
        fewer = answer(case, world, halved(given))
        for name, number in timeless(whole).items():
            other = fewer.numbers[name].each if name in fewer.numbers else None
            if number.each is not None and other is not None and len(other) < len(number.each):
                close(torch.as_tensor(number.each[: len(other)]), torch.as_tensor(other), f"'{name}' of the first half")


def halved(given: Subject) -> Subject:
    """The same subject with the first half of its images and test split."""

    def half(data: Data) -> Data:
        return data.replace(splits={**data.splits, "test": data.test.take(np.arange(len(data.test) // 2))})

    images = given.images.take(slice(0, IMAGES // 2)) if given.images is not None else None
    return dataclasses.replace(given, images=images, data={k: half(v) for k, v in given.data.items()})


# searches and studies


@promise("search")
def search(case: Case) -> None:
    """The best recipe's changes are values of the space, and the table is a sound result."""
    space: dict[str, list[Any]] = {"optimizer.lr": [0.1, 0.01], "epochs": [1, 2]}
    for world in worlds(case):
        changes, table = case.method.search(space, TinyLab(world, world.model()), plain_context(world))
        for key, value in changes.items():
            demand(value in list(space.get(key, ())), f"{key} = {value!r} is not in the space")
        sound_result(table)


@promise("study")
def study(case: Case) -> None:
    """The table is a sound result and the verdict says something."""
    for world in worlds(case):
        table, verdict = case.method.study(TinyLab(world, world.model()), plain_context(world))
        sound_result(table)
        demand(isinstance(verdict, str) and verdict.strip(), "the verdict is empty")
