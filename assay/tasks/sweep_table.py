"""A sweep in numbers: what became of each point, the chosen numbers of each model, the best of them."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from assay.plugins.values import BadInput
from assay.tasks.gates import parse_gate
from assay.tasks.params import Params, labels
from assay.tasks.plan import DENSE
from assay.tasks.summary import Row, Summary
from assay.tasks.sweep import Point


@dataclass
class PointResult:
    """What became of a point: its summary, or the reason why it has none. `pipeline` is the id of its plan."""

    point: Point
    pipeline: str
    summary: Summary | None = None
    failure: str = ""

    @property
    def passed(self) -> bool:
        """Whether it is done and every gate holds for every variant."""
        return self.summary is not None and self.summary.passed


@dataclass(frozen=True)
class Measured:
    """A number of a point's model with its 95 % interval; `direction` says whether more (1) or less (-1) is
    better, 0 where neither."""

    row: Row
    value: float
    low: float
    high: float
    direction: int


@dataclass(frozen=True)
class Metric:
    """A number that a sweep is looked at by: `[saliency:]method[.field][.drop]`."""

    name: str
    saliency: str
    method: str
    field: str
    drop: bool

    def of(self, summary: Summary, model: str) -> Measured | None:
        """The number of a model; None where it was not asked for."""
        row = summary.find(model, self.method, self.field, self.saliency)
        if row is None:
            return None
        if self.drop:
            return Measured(row, row.drop, row.drop_low, row.drop_high, -1 if row.direction else 0)
        return Measured(row, row.value, row.low, row.high, row.direction)


def parse_metric(text: str) -> Metric:
    """The number that a text names. Raises BadInput."""
    try:
        gate = parse_gate(f"{text} > 0")
    except ValueError:
        right = "it must read like `accuracy/top1`, `accuracy/top1.drop` or `gradient:rank`"
        raise BadInput(f"--metric {text!r}: {right}") from None
    return Metric(text.strip(), gate.saliency, gate.method, gate.field, gate.drop)


def check_metric(metric: Metric, params: Sequence[Params]) -> None:
    """Raises BadInput where no point asks for a number."""
    for one in params:
        section = one.attribute
        known = [*labels(section.agreement), *labels(section.audit)] if metric.saliency else labels(one.evaluate)
        if metric.method in known and (not metric.saliency or metric.saliency in labels(section.saliency)):
            return
    section, where = params[0].attribute, "evaluate"
    known = labels(params[0].evaluate)
    if metric.saliency:
        where = "attribute"
        measures = [*labels(section.agreement), *labels(section.audit)]
        known = [f"{saliency}:{name}" for saliency in labels(section.saliency) for name in measures]
    raise BadInput(f"--metric {metric.name}: no point has it; `{where}` has {', '.join(known) or 'none'}")


@dataclass
class SweepTable:
    """A finished sweep: its points in order, the numbers to look at (the headline number first), and the only
    variant to look at, '' for all."""

    id: str
    results: list[PointResult]
    metrics: list[Metric]
    variant: str = ""

    @functools.cached_property
    def paths(self) -> list[str]:
        """Every path that a point sets, in order."""
        return list(dict.fromkeys(path for result in self.results for path in result.point.values))

    @property
    def done(self) -> list[PointResult]:
        """The points that have numbers."""
        return [result for result in self.results if result.summary is not None]

    @property
    def failed(self) -> list[PointResult]:
        """The points that have none."""
        return [result for result in self.results if result.summary is None]

    @functools.cached_property
    def models(self) -> list[str]:
        """The models to look at: the dense one and the chosen variant, else every variant of any point."""
        found = dict.fromkeys(model for result in self.done if result.summary for model in result.summary.models)
        return [model for model in found if not self.variant or model in (DENSE, self.variant)]

    @property
    def decisive(self) -> Metric | None:
        """The number to choose by: the first that was asked for and has a direction, else the headline number."""
        in_turn = [*self.metrics[1:], *self.metrics[:1]]
        return next((m for m in in_turn if any(self.ranked(model, m) for model in self.models)), None)

    def measured(self, result: PointResult, model: str, metric: Metric) -> Measured | None:
        """A number of a point's model."""
        summary = result.summary
        return None if summary is None or model not in summary.models else metric.of(summary, model)

    def column(self, model: str, metric: Metric) -> list[tuple[PointResult, Measured]]:
        """A number of one model of every point that has it."""
        pairs = [(result, self.measured(result, model, metric)) for result in self.done]
        return [(result, found) for result, found in pairs if found is not None and math.isfinite(found.value)]

    def ranked(self, model: str, metric: Metric) -> list[tuple[PointResult, Measured]]:
        """The points by one number of one model, best first; none where the number has no direction."""
        column = [pair for pair in self.column(model, metric) if pair[1].direction]
        return sorted(column, key=lambda pair: -pair[1].direction * pair[1].value)


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """Each path by its last parts, as many as it takes to tell them apart."""
    found = {}
    for path in paths:
        parts = path.split(".")
        count = next(n for n in range(1, len(parts) + 1) if n == len(parts) or _only(path, parts[-n:], paths))
        found[path] = ".".join(parts[-count:])
    return found


def _only(path: str, end: Sequence[str], paths: Sequence[str]) -> bool:
    return not end[0].isdecimal() and not any(p != path and p.split(".")[-len(end) :] == list(end) for p in paths)


def to_json(table: SweepTable) -> list[dict[str, Any]]:
    """Each point with its chosen numbers, as plain JSON values."""
    return [
        {
            "point": result.point.number,
            "values": dict(result.point.values),
            "pipeline": result.pipeline,
            "failure": result.failure,
            "passed": result.passed,
            "models": {model: dict(_numbers(table, result, model)) for model in _models(table, result)},
        }
        for result in table.results
    ]


def _models(table: SweepTable, result: PointResult) -> list[str]:
    return [model for model in table.models if result.summary is not None and model in result.summary.models]


def _numbers(table: SweepTable, result: PointResult, model: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for metric in table.metrics:
        found = table.measured(result, model, metric)
        if found is not None:
            numbers = {"value": found.value, "low": found.low, "high": found.high}
            numbers |= {} if metric.drop else {"floor": found.row.floor, "ceiling": found.row.ceiling}
            finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
            yield metric.name, {**finite, "verdict": found.row.verdict, "reason": found.row.reason}
