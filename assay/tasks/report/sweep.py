"""The page of a sweep: what became of its points, what each path's values do, every point in a table."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from markupsafe import Markup

from assay.tasks.plan import DENSE
from assay.tasks.report import page as shell
from assay.tasks.report.files import cell
from assay.tasks.report.svg import LINES
from assay.tasks.report.sweep_plots import Dot, effect
from assay.tasks.report.words import VERDICTS, Words, count
from assay.tasks.summary import Row, Summary
from assay.tasks.sweep import say
from assay.tasks.sweep_table import Measured, Metric, PointResult, SweepTable, short_names

MAX_ROWS = 2000
LUCK = "The best of many points is the best partly by luck. Intervals, verdicts and gates are each point's own."


@dataclass(frozen=True)
class Number:
    """A number in the table of points."""

    value: str
    interval: str
    best: bool
    reason: str
    controls: str = ""


@dataclass(frozen=True)
class Line:
    """One model of one point in the table of points."""

    result: PointResult
    first: bool
    model: str
    numbers: list[Number]
    verdict: str
    gates: str


def write_sweep(table: SweepTable, words: Words, folder: Path, facts: Mapping[str, Any]) -> Path:
    """Writes `sweep.html` and `sweep.csv` into `folder` and returns the page's path.

    `facts` says what the numbers do not: `command`, `created`, `versions` by package, `git` and `point`, how
    one point is run by itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "sweep.csv", table)
    page = folder / "sweep.html"
    page.write_text(render(table, words, facts), encoding="utf-8")
    return page


def write_csv(path: Path, table: SweepTable) -> None:
    """Every number of every point with all its columns; a failed point has one line with the reason."""
    columns = [field.name for field in fields(Row)]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["point", *table.paths, "pipeline", "failure", "passed", "name", *columns])
        for result in table.results:
            values = [say(result.point.values[p]) if p in result.point.values else "" for p in table.paths]
            head = [result.point.number, *values, result.pipeline, result.failure]
            if result.summary is None:
                writer.writerow([*head, "", "", *("" for _ in columns)])
                continue
            for row in result.summary.rows:
                cells = [cell(getattr(row, column)) for column in columns]
                writer.writerow([*head, _passed(result.summary, row.model), row.name, *cells])


def _passed(summary: Summary, model: str) -> bool | str:
    return summary.variant_passed(model) if summary.gates and model in summary.variants else ""


def render(table: SweepTable, words: Words, facts: Mapping[str, Any]) -> str:
    """The page as text."""
    title, status = said(table)
    found = findings(table, words)
    known = {
        "title": title,
        "status": status,
        "name": f"sweep {table.id}",
        "swept": swept(table),
        "findings": found,
        "note": LUCK if found else "",
        "beside": "sweep.csv with every number",
        "table": table,
        "names": short_names(table.paths),
        "say": say,
        "facts": facts,
        "effects": effects(table, words),
        "colours": colours(table),
        "lines": lines(table, words),
        "shown": min(len(table.results), MAX_ROWS),
        "verdicts": VERDICTS,
    }
    return shell.render("sweep", known)


# in words


def said(table: SweepTable) -> tuple[str, str]:
    """The sweep's outcome in a line, and its colour."""
    total, failed = len(table.results), len(table.failed)
    text = f"{count(total, 'point')}, {'all done' if not failed else f'{failed} failed'}"
    if total == 1:
        text = f"1 point, {'failed' if failed else 'done'}"
    if not any(result.summary.gates for result in table.done if result.summary):
        return text, "bad" if failed == total else "warn" if failed else "mute"
    passed = sum(result.passed for result in table.done)
    status = "bad" if not passed else "ok" if passed == total else "warn"
    return f"{text}; {passed:,} pass every gate" if passed != 1 else f"{text}; 1 passes every gate", status


def swept(table: SweepTable) -> list[tuple[str, str]]:
    """Each path, and its values."""
    found = []
    for path in table.paths:
        values = dict.fromkeys(say(r.point.values[path]) for r in table.results if path in r.point.values)
        shown = list(values)[:12]
        more = f", … ({len(values)} values)" if len(values) > len(shown) else ""
        found.append((path, ", ".join(shown) + more))
    return found


def findings(table: SweepTable, words: Words) -> list[str]:
    """The best point of each model by the number that was chosen, else the headline number."""
    metric = table.decisive
    if metric is None:
        return []
    found = []
    for model in table.models:
        ranked = table.ranked(model, metric)
        if len(ranked) < 2:
            continue
        result, best = ranked[0]
        if best.value == ranked[-1][1].value:
            found.append(f"{model}: {metric.name} is {shown(words, metric, best)} at every point.")
            continue
        even = sum(1 for _, other in ranked[1:] if _reaches(other, best))
        text = f"{model}: {metric.name} is best at point {result.point.number} ({result.point.name}), "
        text += shown(words, metric, best)
        if even:
            text += f"; the intervals of {count(even, 'other point')} reach as far"
        found.append(text + ".")
    return found


def _reaches(other: Measured, best: Measured) -> bool:
    """Whether another's interval holds the best value."""
    return other.low <= best.value <= other.high


def shown(words: Words, metric: Metric, found: Measured) -> str:
    """A number with its interval in words."""
    value, interval = _value(words, metric, found), _interval(words, metric, found)
    return f"{value} ({interval})" if interval else value


def _value(words: Words, metric: Metric, found: Measured) -> str:
    return (words.drop if metric.drop else words.number)(found.row, found.value)


def _interval(words: Words, metric: Metric, found: Measured) -> str:
    return (words.changes if metric.drop else words.range)(found.row, found.low, found.high)


# plots and table


def colours(table: SweepTable) -> dict[str, str]:
    """A CSS colour for each model."""
    variants = [model for model in table.models if model != DENSE]
    dense = {DENSE: "var(--ink)"} if DENSE in table.models else {}
    return {**dense, **{model: f"var(--m{i % LINES})" for i, model in enumerate(variants)}}


def effects(table: SweepTable, words: Words) -> list[tuple[Metric, list[tuple[str, Markup]]]]:
    """For each number a plot over each path that has several values."""
    found = []
    for metric in table.metrics:
        plots = [(path, _effect(table, words, metric, path)) for path in table.paths]
        drawn = [(path, plot) for path, plot in plots if plot]
        if drawn:
            found.append((metric, drawn))
    return found


def _effect(table: SweepTable, words: Words, metric: Metric, path: str) -> Markup:
    values = [result.point.values[path] for result in table.results if path in result.point.values]
    texts = list(dict.fromkeys(say(value) for value in values))
    if len(texts) < 2:
        return Markup("")
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values)
    dots, row = [], None
    for model in table.models:
        for result, found in table.column(model, metric):
            if path not in result.point.values:
                continue
            row, value = found.row, result.point.values[path]
            place = float(value) if numeric else float(texts.index(say(value)))
            thread = tuple((name, say(v)) for name, v in result.point.values.items() if name != path)
            tip = f"point {result.point.number} ({result.point.name}), {model}: {shown(words, metric, found)}"
            tip += f"; {controls}" if (controls := _controls(words, metric, found.row)) else ""
            dots.append(Dot(model, place, found.value, found.low, found.high, thread, tip))
    if row is None:
        return Markup("")
    like = row
    show = (lambda value: words.drop(like, value)) if metric.drop else (lambda value: words.number(like, value))
    name = short_names(table.paths)[path]
    return effect(dots, colours(table), [] if numeric else texts, name, f"{metric.name} over {path}", show)


def lines(table: SweepTable, words: Words) -> list[Line]:
    """Every model of every point that is done, up to as many as a page can hold."""
    best = {(model, m.name): _best(table, model, m) for model in table.models for m in table.metrics}
    found = []
    for result in table.results[:MAX_ROWS]:
        summary = result.summary
        if summary is None:
            continue
        for i, model in enumerate(model for model in table.models if model in summary.models):
            numbers = []
            for metric in table.metrics:
                is_best = best[model, metric.name] is result
                numbers.append(_number(words, metric, table.measured(result, model, metric), is_best))
            found.append(Line(result, i == 0, model, numbers, maps(summary, model), gates(summary, model)))
    return found


def _best(table: SweepTable, model: str, metric: Metric) -> PointResult | None:
    """The one point that is better than all others."""
    ranked = table.ranked(model, metric)[:2]
    return ranked[0][0] if len(ranked) == 2 and ranked[0][1].value != ranked[1][1].value else None


def _number(words: Words, metric: Metric, found: Measured | None, best: bool) -> Number:
    if found is None:
        return Number("", "", False, "not asked")
    if not math.isfinite(found.value):
        return Number("", "", False, "reference" if metric.drop else found.row.reason or "not a number")
    value, interval = _value(words, metric, found), _interval(words, metric, found)
    return Number(value, interval, best, found.row.reason, _controls(words, metric, found.row))


def _controls(words: Words, metric: Metric, row: Row) -> str:
    """What a number of maps stands between; '' for others."""
    named = (("floor", row.floor), ("ceiling", row.ceiling))
    known = [f"{name} {words.number(row, value)}" for name, value in named if math.isfinite(value)]
    return "" if metric.drop else ", ".join(known)


def maps(summary: Summary, model: str) -> str:
    """The verdict of the first agreement of a model's maps; '' where there is none."""
    row = next((r for r in summary.rows if r.kind == "agreement" and r.model == model), None)
    return "" if row is None else row.verdict


def gates(summary: Summary, model: str) -> str:
    """`passes`, `fails`, or '' where no gate judges the model."""
    judged = any(gate.variant == model for gate in summary.gates)
    return "" if not judged else "passes" if summary.variant_passed(model) else "fails"
